"""A layer's filters as an image.

Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks" (NIPS
2012), figure 3, show those of the first layer so.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from models.classification.explain.drawing import WIDTH, captioned, sheet
from models.classification.explain.layers import layer_of, network_of
from models.errors import ParameterInvalid
from models.image import Pixels
from models.pipeline import Pipeline

MOST: Final = 256
"""Filters of one sheet; of a layer with more, the first."""

DEAD: Final = 1e-3
"""A filter is dead whose largest weight is at most this part of the layer's largest."""

CELL: Final = 64
"""Least side of a filter's tile, where there are few."""

CROSS: Final = (200, 40, 40)


def filter_sheet(pipeline: Pipeline, layer: str | None = None) -> Pixels:
    """The filters of a convolution side by side, numbered -> uint8 RGB [height, width, 3].

    Each is stretched to its own full range, and enlarged without smoothing. Filters over three channels are
    shown in colour. Of others the mean over their channels is shown in grey, and of filters of one pixel the
    weights of their channels, row by row. Dead filters are crossed out.

    Args:
        pipeline: of any network with convolutions.
        layer: a convolution's name, as `layers_of` has it; None: the first.

    Raises:
        ParameterInvalid: there is no such layer, or it has no filters.
    """
    name, weights = _convolution(pipeline, layer)
    filters = weights[:MOST].detach().float().cpu()
    dead = (filters.abs().amax((1, 2, 3)) <= DEAD * weights.abs().max().cpu()).tolist()
    images = _images(filters)
    count, height, width, _ = images.shape
    columns = math.ceil(math.sqrt(count))
    side = max(CELL if count <= 64 else CELL // 2, math.ceil(WIDTH / columns))
    factor = max(1, math.ceil(side / max(height, width)))
    tiles = [image.repeat(factor, axis=0).repeat(factor, axis=1) for image in images]
    for tile, is_dead in zip(tiles, dead, strict=True):
        if is_dead:
            _cross(tile)
    names = [f"{number} dead" if is_dead else str(number) for number, is_dead in enumerate(dead)]
    total, inputs, rows, across = weights.shape
    what = f"{name}: {total} filters of {rows} x {across} over {inputs} channel{'s' * (inputs > 1)}"
    which = f"the first {count} are shown" if count < total else ""
    lost = f"{sum(dead)} dead" if any(dead) else ""
    return captioned(sheet(tiles, names, columns), [", ".join(filter(None, (what, which, lost)))])


def _convolution(pipeline: Pipeline, layer: str | None) -> tuple[str, Tensor]:
    network = network_of(pipeline)
    convolutions = {name: one for name, one in network.named_modules() if isinstance(one, nn.Conv2d)}
    if not convolutions:
        what = f"the model {pipeline.card.name!r} has no convolution whose filters could be shown"
        raise ParameterInvalid("model", what)
    if layer is None:
        name = next(iter(convolutions))
    elif layer in convolutions:
        name = layer
    else:
        found = layer_of(pipeline, layer)
        held = [one for one in found.modules if one in convolutions]
        held += [one for one in convolutions if one.startswith(f"{found.name}.")]
        if len(held) != 1:
            those = f"it holds {', '.join(held[:4])}" if held else "it is no convolution"
            raise ParameterInvalid("layer", f"the layer {found.name} has no filters of its own; {those}")
        (name,) = held
    return name, convolutions[name].weight


def _images(filters: Tensor) -> Pixels:
    """float Tensor[count, inputs, h, w] -> uint8 [count, h, w, 3], each over its own range."""
    count, inputs, height, width = filters.shape
    if height * width == 1:  # the weights of the channels, in nearly a square
        across = math.ceil(math.sqrt(inputs))
        rows = math.ceil(inputs / across)
        flat = torch.full((count, rows * across), float("nan"))
        flat[:, :inputs] = filters.flatten(1)
        filters = flat.view(count, 1, rows, across)
    elif inputs != 3:
        filters = filters.mean(1, keepdim=True)
    known = filters.nan_to_num(float("inf")), filters.nan_to_num(float("-inf"))
    low, high = known[0].amin((1, 2, 3), keepdim=True), known[1].amax((1, 2, 3), keepdim=True)
    levels = ((filters - low) / (high - low).clamp(min=1e-12) * 255).nan_to_num(255).round().byte()
    images: Pixels = levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
    return images


def _cross(tile: Pixels) -> None:
    """Two diagonal lines over a tile."""
    height, width = tile.shape[:2]
    rows = np.arange(height)
    for shift in range(-1, 2):
        at = (rows * width // height + shift).clip(0, width - 1)
        tile[rows, at] = CROSS
        tile[rows, width - 1 - at] = CROSS
