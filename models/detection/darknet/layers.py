"""The layers of darknet networks as modules: from a section of the `.cfg` and the shapes that come in."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.detection.darknet import cfg as cfg

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "mish": nn.Mish,
    "swish": nn.SiLU,
    "logistic": nn.Sigmoid,
}


class Shape(NamedTuple):
    """Of a feature map, without the batch."""

    channels: int
    height: int
    width: int


def _activation(name: str) -> list[nn.Module]:
    if name == "linear":
        return []
    return [nn.LeakyReLU(0.1) if name == "leaky" else _ACTIVATIONS[name]()]


class Route(nn.Module):
    """Concatenates, along the channels, one group of each input: `channels` from `offset` for each."""

    def __init__(self, slices: list[slice]) -> None:
        super().__init__()
        self.slices = slices

    def forward(self, *inputs: Tensor) -> Tensor:
        parts = [x[:, part] for x, part in zip(inputs, self.slices, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class Shortcut(nn.Module):
    """Adds the other inputs to the first, whose number of channels the result has."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.activation = nn.Sequential(*_activation(activation))

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        channels = x.shape[1]
        for other in others:
            missing = channels - other.shape[1]
            x = x + (F.pad(other, (0, 0, 0, 0, 0, missing)) if missing else other)  # negative padding crops
        return self.activation(x)  # type: ignore[no-any-return]


class ScaleChannels(nn.Module):
    """Multiplies the second input, [N, C, H, W], by the first, [N, C, 1, 1]: squeeze and excitation."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.activation = nn.Sequential(*_activation(activation))

    def forward(self, scale: Tensor, x: Tensor) -> Tensor:
        return self.activation(x * scale)  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Nearest neighbour, then a factor."""

    def __init__(self, stride: int, scale: float) -> None:
        super().__init__()
        self.stride, self.scale = stride, scale

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=float(self.stride), mode="nearest")
        return x if self.scale == 1.0 else x * self.scale


class Reorg(nn.Module):
    """Space to depth as YOLOv2 was trained with it: [N, C, H, W] -> [N, C * s * s, H / s, W / s].

    Darknet's `reorg_cpu` reads its input as if it had C / (s * s) channels of (H * s, W * s); the order that
    comes of it is no usual space to depth, and the weights expect it.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        s = self.stride
        x = x.reshape(n, c // (s * s), h, s, w, s).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(n, c * s * s, h // s, w // s)


def sources(layer: cfg.Layer, index: int) -> tuple[int, ...]:
    """Which outputs layer `index` reads, in the order of its module's arguments; -1 is the image."""
    match layer:
        case cfg.Route():
            return layer.layers
        case cfg.Shortcut():
            return (index - 1, *layer.layers)
        case cfg.ScaleChannels():
            return (index - 1, layer.layer)
        case _:
            return (index - 1,)


def build_layer(layer: cfg.Layer, given: list[Shape]) -> tuple[nn.Module, Shape]:
    """A layer's module and the shape of its output.

    Raises:
        WeightsError: the shapes that come in do not fit the layer.
    """
    channels, height, width = given[0]
    if isinstance(layer, cfg.Route | cfg.Shortcut) and len({shape[1:] for shape in given}) > 1:
        raise layer.place.error(f"its inputs have different sizes: {[shape[1:] for shape in given]}")
    match layer:
        case cfg.Convolutional():
            return _convolution(layer, given[0])
        case cfg.MaxPool():
            return _max_pool(layer, given[0])
        case cfg.AvgPool():
            return nn.AdaptiveAvgPool2d(1), Shape(channels, 1, 1)
        case cfg.Route():
            if any(shape.channels % layer.groups for shape in given):
                raise layer.place.error(f"its inputs do not fall into {layer.groups} groups")
            sizes = [shape.channels // layer.groups for shape in given]
            slices = [slice(size * layer.group_id, size * (layer.group_id + 1)) for size in sizes]
            return Route(slices), Shape(sum(sizes), height, width)
        case cfg.Shortcut():
            return Shortcut(layer.activation), given[0]
        case cfg.ScaleChannels():
            if given[0] != Shape(given[1].channels, 1, 1):
                raise layer.place.error(f"{tuple(given[0])} cannot scale the channels of {tuple(given[1])}")
            return ScaleChannels(layer.activation), given[1]
        case cfg.Upsample():
            return Upsample(layer.stride, layer.scale), Shape(
                channels, height * layer.stride, width * layer.stride
            )
        case cfg.Reorg():
            s = layer.stride
            if height % s or width % s or channels % (s * s):
                raise layer.place.error(f"{tuple(given[0])} cannot be reordered with stride {s}")
            return Reorg(s), Shape(channels * s * s, height // s, width // s)
        case _:
            return nn.Identity(), given[0]


def _convolution(layer: cfg.Convolutional, given: Shape) -> tuple[nn.Module, Shape]:
    if given.channels % layer.groups or layer.filters % layer.groups:
        raise layer.place.error(
            f"{given.channels} channels to {layer.filters} filters do not fall into {layer.groups} groups"
        )
    reach = layer.dilation * (layer.size - 1) + 1
    padding = layer.padding * layer.dilation  # as darknet calls its `im2col_cpu_ext`
    height, width = ((side + 2 * padding - reach) // layer.stride + 1 for side in given[1:])
    if height < 1 or width < 1:
        raise layer.place.error(f"size={layer.size} does not fit an input of {given.height} by {given.width}")
    convolution = nn.Conv2d(
        given.channels,
        layer.filters,
        layer.size,
        layer.stride,
        padding,
        layer.dilation,
        layer.groups,
        device="meta",  # a cfg can ask for any amount of memory; the length of the weights is checked first
    )
    return nn.Sequential(convolution, *_activation(layer.activation)), Shape(layer.filters, height, width)


def _max_pool(layer: cfg.MaxPool, given: Shape) -> tuple[nn.Module, Shape]:
    """Darknet pads by `padding` in all, the smaller half left and above, with what never is the largest."""
    height, width = ((side + layer.padding - layer.size) // layer.stride + 1 for side in given[1:])
    if height < 1 or width < 1:
        raise layer.place.error(f"size={layer.size} does not fit an input of {given.height} by {given.width}")
    before = layer.padding // 2
    # what a window really reaches to the right and below: mostly nothing for size 2, stride 2
    right, below = (
        (out - 1) * layer.stride + layer.size - before - side
        for out, side in ((width, given.width), (height, given.height))
    )
    shape = Shape(given.channels, height, width)
    if right == below == before and 2 * before <= layer.size:
        return nn.MaxPool2d(layer.size, layer.stride, before), shape
    padding = nn.ConstantPad2d((before, max(right, 0), before, max(below, 0)), float("-inf"))
    return nn.Sequential(padding, nn.MaxPool2d(layer.size, layer.stride)), shape
