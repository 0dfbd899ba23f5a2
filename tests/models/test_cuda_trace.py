"""Every network on a GPU that is not there: traced with tensors that have a device and no data.

A trace fails on what a CUDA graph could not hold: an operation whose result depends on data, a constant in
the host's memory. The numbers of kernels are what a change of a network costs on a GPU, where most of them
wait for memory; they are pinned, so that a change is seen.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models import registry
from models.inference import prepare_for_gpu
from models.weights import Catalogue, Store

BATCH = 4


class Kernels(TorchDispatchMode):
    """Counts operations that are kernels, and convolutions whose tensors have one layout.

    Raises:
        AssertionError: a kernel reads the host's memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.converted = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        view = all(one.alias_info is not None and not one.alias_info.is_write for one in returns)
        if not view and "empty" not in func._schema.name and func.namespace != "prim":
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            name = func._schema.name.removeprefix("aten::")
            assert all(isinstance(one, FakeTensor) for one in tensors), f"{name} has a constant"
            assert all(one.device.type == "cuda" or one.dim() == 0 for one in tensors), f"{name}: the host"
            self.counts[name] += 1
            if name == "convolution":
                image, weight = args[:2]
                self.converted += not _one_layout(image, weight)
        return result


def _one_layout(image: Tensor, weight: Tensor) -> bool:
    formats = (torch.channels_last, torch.contiguous_format)
    return any(all(one.is_contiguous(memory_format=form) for one in (image, weight)) for form in formats)


def trace(
    module: nn.Module, shapes: list[tuple[tuple[int, ...], torch.dtype]]
) -> tuple[Kernels, tuple[Tensor, ...]]:
    with FakeTensorMode() as fake, torch.no_grad():
        state = {
            name: fake.from_tensor(tensor).to("cuda")
            for named in (module.named_parameters, module.named_buffers)
            for name, tensor in named(remove_duplicate=False)
        }
        inputs = tuple(torch.empty((BATCH, *shape), dtype=dtype, device="cuda") for shape, dtype in shapes)
        with Kernels() as kernels:
            outputs = functional_call(module, state, inputs)
    return kernels, (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def traced(name: str, part: str = "") -> tuple[Kernels, tuple[Tensor, ...]]:
    """In float16, at the last of the pipeline's shapes, which for most is its only one."""
    pipeline = registry.build(name, Catalogue(), Store())
    stage = pipeline.stages.get(part)
    module = pipeline.module if stage is None else stage.module
    example = pipeline.examples[-1] if stage is None else (np.zeros(stage.shape, np.float32),)
    inputs = [torch.from_numpy(one[None]) for one in example]
    prepare_for_gpu(module, inputs, torch.float16, channels_last=pipeline.channels_last)
    return trace(module, [(tuple(one.shape[1:]), one.dtype) for one in inputs])


NETWORKS = {
    "efficientnet-lite0": (49, 104),
    "lenet5": (5, 26),
    "efficientdet-lite0": (182, 431),
    "yolo-person": (76, 206),
    "yolov3-tiny": (13, 75),
    "mtcnn": (4, 14),
    "mtcnn rnet": (3, 18),
    "mtcnn onet": (4, 21),
    "dlib-resnet": (29, 92),
    "paintings": (14, 102),
}
"""Convolutions, and all kernels."""


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_can_be_captured_and_answers_in_float32(network: str) -> None:
    name, _, part = network.partition(" ")
    kernels, outputs = traced(name, part)
    found = kernels.counts["convolution"], kernels.counts.total()
    assert found == NETWORKS[network], kernels.counts
    assert {output.dtype for output in outputs} <= {torch.float32, torch.uint8}
    assert kernels.converted == 0


class Deciding(nn.Module):
    """Branches on data, which a graph cannot."""

    def forward(self, images: Tensor) -> Tensor:
        total = images.float().sum()
        return total if total.item() > 0 else -total


class Constant(nn.Module):
    """Has a tensor that is no buffer, and stays on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.ones(3)

    def forward(self, images: Tensor) -> Tensor:
        return images.float() - self.mean


class Converting(nn.Module):
    """A convolution whose weight has another layout than its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.layer(images.permute(0, 3, 1, 2).contiguous().float())
        return outputs


@pytest.mark.parametrize("module", [Deciding(), Constant()])
def test_a_trace_fails_on_what_a_graph_cannot_hold(module: nn.Module) -> None:
    with pytest.raises((RuntimeError, AssertionError)):
        trace(module, [((8, 8, 3), torch.uint8)])


def test_a_layout_that_is_converted_is_seen() -> None:
    kernels, _ = trace(Converting(), [((8, 8, 3), torch.uint8)])
    assert kernels.converted == 1
