"""dlib's face embedding network, in PyTorch, read from dlib's own file.

A ResNet of 29 convolutions that maps an aligned face of 150 x 150 pixels to 128 numbers; the Euclidean
distance of two faces of one person is mostly below 0.6 (99.4% right on LFW by its author, Davis King:
`dnn_face_recognition_ex.cpp` of dlib). The vectors are not of unit length. He et al., "Deep Residual
Learning" (CVPR 2016), with half the filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from models.checkpoint import load_state, read_state
from models.errors import WeightsError
from models.faces.dlib_format import Layer, read_network
from models.faces.template import SIDE

WIDTHS = (32, 32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 256, 256, 256, 256)
"""Channels before the first residual unit and after each of the fourteen."""

STRIDED = (3, 7, 10, 13)
"""Which units halve the image."""


class Unit(nn.Module):
    """A residual unit; dlib's affine layers (frozen batch norms) are folded into its convolutions.

    One that halves the image pools its shortcut and adds what is missing as zeros: channels of the
    shortcut, and, where an even side leaves the unpadded convolution one row and column short, those of the
    branch.
    """

    def __init__(self, inputs: int, outputs: int, side: int, *, halve: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2 if halve else 1, 0 if halve else 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.halve = halve
        self.channels = outputs - inputs
        self.border = int(halve and side % 2 == 0)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv2(F.relu(self.conv1(x)))
        if self.halve:
            x = F.pad(F.avg_pool2d(x, 2), (0, 0, 0, 0, 0, self.channels))
            branch = F.pad(branch, (0, self.border, 0, self.border))
        return F.relu(x + branch)


class FaceResNet(nn.Module):
    """uint8 Tensor[N, 150, 150, 3], RGB -> float Tensor[N, 128], or Tensor[N, D] with a projection as `head`.

    Args:
        mean: of the training images, RGB, 0 to 255; it is taken away and the rest is divided by 256.
    """

    whole = ("mean", "embed", "head")
    mean: Tensor

    def __init__(self, mean: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer(
            "mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False
        )
        self.stem = nn.Conv2d(3, WIDTHS[0], 7, 2)
        side = 35  # 150 -> 72 by the stem -> 35 by the pool
        units = []
        for index, (inputs, outputs) in enumerate(pairwise(WIDTHS)):
            units.append(Unit(inputs, outputs, side, halve=index in STRIDED))
            side = side // 2 if index in STRIDED else side
        self.units = nn.Sequential(*units)
        self.embed = nn.Linear(WIDTHS[-1], 128, bias=False)
        self.head: nn.Module = nn.Identity()

    def forward(self, chips: Tensor) -> Tensor:
        x = (chips.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / 256.0
        x = F.max_pool2d(F.relu(self.stem(x.to(self.stem.weight.dtype))), 3, 2)
        x = self.units(x).float().mean(dim=(2, 3))
        embedding: Tensor = self.head(self.embed(x))
        return embedding


def convert(source: Path, target: Path) -> None:
    """Writes dlib's .dat as safetensors, byte for byte the same each time.

    Raises:
        WeightsError: the file does not parse, or is another network.
    """
    network = read_dat(source)
    save_file({**network.state_dict(), "mean": network.mean.flatten().contiguous()}, target)


def load_network(path: Path, head: NDArray[np.float32] | None = None) -> FaceResNet:
    """The network with the weights that `convert` wrote.

    Args:
        path: of the file.
        head: a projection, [D, 128]; None: there is none.

    Raises:
        WeightsError: the file is none of these.
    """
    tensors = read_state(path)
    mean = tensors.pop("mean", torch.zeros(0))
    if mean.shape != (3,):
        raise WeightsError(f"{path.name} is not a converted face network: it has no mean of three channels")
    network = load_state(FaceResNet(mean.tolist()), tensors, path.name)
    if head is not None:
        projection = nn.Linear(head.shape[1], head.shape[0], bias=False)
        projection.weight.data = torch.from_numpy(head)
        network.head = projection
    return network


def read_dat(path: Path) -> FaceResNet:
    """The network with the weights of `dlib_face_recognition_resnet_model_v1.dat`.

    Raises:
        WeightsError: the file does not parse, or is another network.
    """
    parsed = read_network(path.read_bytes())
    network = FaceResNet(parsed.mean)
    layers = iter([layer for layer in parsed.layers if len(layer.params)])
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    try:
        if parsed.size != (SIDE, SIDE):
            raise ValueError(f"an input of {parsed.size}")
        with torch.no_grad():
            for module in convolutions:
                _fill(module, next(layers), next(layers))
            dense = next(layers)
            network.embed.weight.copy_(torch.from_numpy(dense.params.reshape(-1, 128)).t())
        if list(layers):
            raise ValueError("more layers than the network has")
    except (ValueError, StopIteration, RuntimeError, KeyError) as exc:
        raise WeightsError(f"{path.name} is not dlib's face network: {exc or 'too few layers'}") from exc
    return network


def _fill(module: nn.Conv2d, convolution: Layer, affine: Layer) -> None:
    """gamma * (w * x + b) + beta = (gamma w) * x + (gamma b + beta), folded in float64."""
    fields, (rows, columns) = convolution.fields, module.kernel_size
    shape = (module.out_channels, module.in_channels, rows, columns)
    given = tuple(fields[key] for key in ("filters", "rows", "columns", "stride_y", "padding_y"))
    if given != (module.out_channels, rows, columns, module.stride[0], int(module.padding[0])):
        raise ValueError(f"a convolution of {given}")
    filters, bias = np.split(convolution.params.astype(np.float64), [int(np.prod(shape))])
    gamma, beta = np.split(affine.params.astype(np.float64), 2)
    weight = filters.reshape(shape) * gamma[:, None, None, None]
    if module.bias is None:  # never: every convolution here has one
        raise ValueError("no bias")
    module.weight.copy_(torch.from_numpy(weight))
    module.bias.copy_(torch.from_numpy(gamma * bias + beta))
