"""What makes a trained network faster to run on a GPU: batch norms folded, weights of 16 bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def prepare_for_gpu(
    module: nn.Module, inputs: Sequence[Tensor], dtype: torch.dtype, *, channels_last: bool = True
) -> None:
    """Folds norms, makes weights narrow and lays them out as a GPU's convolutions take them, in place.

    Args:
        module: float32, in eval mode, on the CPU; does not branch on data.
        inputs: of any batch, as the module takes them.
        dtype: of the arithmetic.
        channels_last: see `models.pipeline.Pipeline`.
    """
    fold_norms(module, inputs)
    if dtype != torch.float32:
        narrow(module, dtype)
    if channels_last:
        module.to(memory_format=torch.channels_last)


def fold_norms(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Moves each batch norm that alone reads a convolution's output into that convolution, in place.

    The module stays the same function but for rounding. Which norms these are is seen in one run, so any
    network can be given that does not branch on data.

    Args:
        module: float32, in eval mode.
        inputs: of any batch, as the module takes them.

    Returns:
        how many were folded.
    """
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()):
        return 0
    with torch.inference_mode(), _Readers() as readers:
        hooks = [
            layer.register_forward_hook(readers.made)
            for layer in module.modules()
            if isinstance(layer, nn.Conv2d)
        ]
        hooks += [
            layer.register_forward_pre_hook(readers.read)
            for layer in module.modules()
            if isinstance(layer, nn.BatchNorm2d)
        ]
        try:
            # on tensors without data it would take seconds: torch imports what it knows of every operator
            module(*inputs)
        finally:
            for hook in hooks:
                hook.remove()
    pairs = readers.pairs()
    for convolution, norm in pairs:
        fused = fuse_conv_bn_eval(convolution, norm)
        convolution.weight, convolution.bias = fused.weight, fused.bias
    folded = {norm for _, norm in pairs}
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if child in folded:
                setattr(parent, name, nn.Identity())
    return len(pairs)


class _Readers(TorchDispatchMode):
    """Counts the operations that read each tensor, and knows which layers made and read it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reads: Counter[int] = Counter()
        self._made: list[tuple[nn.Conv2d, Tensor]] = []
        self._norms: list[tuple[nn.BatchNorm2d, Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._reads.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return func(*args, **(kwargs or {}))

    def made(self, layer: nn.Conv2d, inputs: Any, output: Tensor) -> None:
        """A forward hook. The output is kept: an id that no tensor has is given to another."""
        self._reads[id(output)] = 0
        self._made.append((layer, output))

    def read(self, layer: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        """A forward pre-hook."""
        self._norms.append((layer, inputs[0]))

    def pairs(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """Convolutions and norms that ran once, where the norm alone read what the convolution made."""
        by_output = {id(output): layer for layer, output in self._made}
        runs = Counter(layer for layer, _ in [*self._made, *self._norms])
        return [
            (convolution, norm)
            for norm, given in self._norms
            if (convolution := by_output.get(id(given))) is not None
            and self._reads[id(given)] == runs[convolution] == runs[norm] == 1
            and norm.track_running_stats
        ]


def narrow(module: nn.Module, dtype: torch.dtype) -> None:
    """Gives a network's floating-point weights a type of 16 bits, in place.

    What a module names in its attribute ``whole`` (children, parameters, buffers) stays float32, and so do
    batch norms, whose kernels take their statistics so. The modules convert their inputs to the type of
    their weights themselves, and to float32 where 16 bits are too few.
    """
    whole: tuple[str, ...] = getattr(module, "whole", ())
    for name, child in module.named_children():
        if name not in whole and not isinstance(child, _BatchNorm):
            narrow(child, dtype)
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and tensor.is_floating_point() and name not in whole:
            tensor.data = tensor.data.to(dtype)
