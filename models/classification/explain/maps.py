"""Explanations of a classifier as numbers: maps of an image, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.detection.result import Detection
from models.errors import ECHO, ParameterInvalid, echoed
from models.image import Pixels
from models.pipeline import Card

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Where the evidence for a label lies.

    Attributes:
        index, label: the class that is explained.
        score: its probability, 0 to 1.
        grid: float32 [gh, gw], 0..1: the map as the network has it, over `region`.
        region: what the network saw, xyxy in pixels of the upright original; may reach beyond it.
        width, height: of the upright original, pixels.
        method: how it was made, in words.
    """

    index: int
    label: str
    score: float
    grid: NDArray[np.float32]
    region: Box
    width: int
    height: int
    method: str = "Grad-CAM"

    @property
    def note(self) -> str:
        """What there is to say where nothing was found; else nothing."""
        return "" if self.grid.any() else f"no part of the image raises the score of {self.label}"

    @property
    def caption(self) -> str:
        """What an image of it says."""
        return f"{self.label}: {shown(self.score)} ({self.method})"

    def over(self, height: int, width: int, top: int = 0, bottom: int | None = None) -> NDArray[np.float32]:
        """The map over an image of `height` x `width` pixels that shows the whole original.

        Returns:
            float32 [bottom - top, width], 0..1, its rows from `top` to `bottom`; bilinear between the grid's
            cells, zero outside of `region`, and falling to zero within `SOFT` of it at an edge that the image
            goes on beyond.
        """
        bottom = height if bottom is None else bottom
        scale_x, scale_y = width / self.width, height / self.height
        left, upper, right, lower = (
            edge * scale for edge, scale in zip(self.region, (scale_x, scale_y) * 2, strict=True)
        )
        rows, columns = self.grid.shape
        # warpAffine's matrix takes a pixel's centre of the output to one of the grid
        step_x, step_y = columns / (right - left), rows / (lower - upper)
        matrix = np.array(
            [
                [step_x, 0, (0.5 - left) * step_x - 0.5],
                [0, step_y, (0.5 - upper + top) * step_y - 0.5],
            ],
            np.float64,
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        array: NDArray[np.float32] = cv2.warpAffine(
            self.grid, matrix, (width, bottom - top), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        y, x = np.arange(top, bottom) + 0.5, np.arange(width) + 0.5
        array *= _within(y, upper, lower, height)[:, None]
        array *= _within(x, left, right, width)
        return array


SOFT: Final = 0.06
"""Part of the region's side over which heat fades out where the crop ends and the image does not."""


def _within(places: NDArray[np.floating[Any]], begin: float, end: float, size: int) -> NDArray[np.float32]:
    """Of an axis: 1 inside of the region, 0 outside, float32; in between at edges inside of the image."""
    soft = SOFT * (end - begin)
    inside = (places >= begin) & (places <= end)
    weight = np.ones_like(places)
    if begin > 0.5:
        weight = np.minimum(weight, (places - begin) / soft)
    if end < size - 0.5:
        weight = np.minimum(weight, (end - places) / soft)
    found: NDArray[np.float32] = (inside * weight.clip(0, 1)).astype(np.float32)
    return found


def shown(score: float) -> str:
    """A probability as captions have it."""
    return f"{score:.2f}" if score >= 0.01 else f"{score:.1g}"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a network.

    Attributes:
        name: of the module, below the network.
        kind: its class.
        modules: names of all modules whose output it is: a convolution that an activation changes in place,
            and the activation.
        channels, height, width: of its output, for an input of the network's size.
        receptive_field: height and width in pixels of the input on which one place of the output depends, if
            the input were large enough; None: on all of it, or it is not known.
        stride: y and x distance in pixels of the input between neighbouring places; None likewise.
        filters: a convolution's: how many, over how many channels each, height, width; None for others.
        multiply_adds: of the convolutions and linear layers up to here, on one image.
    """

    name: str
    kind: str
    modules: tuple[str, ...]
    channels: int
    height: int
    width: int
    receptive_field: tuple[int, int] | None
    stride: tuple[int, int] | None
    filters: tuple[int, int, int, int] | None
    multiply_adds: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its output."""
        return self.channels, self.height, self.width


@dataclass(frozen=True, slots=True)
class Activation:
    """What one channel of a layer answers to an image.

    Attributes:
        channel: its number.
        mean, peak: of the map, in the network's own units.
        grid: float32 [gh, gw], the map, or means of its cells where it is finer than `CELLS`.
    """

    channel: int
    mean: float
    peak: float
    grid: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ActivationMap:
    """The strongest channels of a layer.

    Attributes:
        index, label, score: the class that is told of, and its probability.
        layer: the layer's name.
        channels, rows, columns: how many it has, and of what size its maps are.
        strongest: by falling mean of what is positive.
        region: what the network saw, xyxy in pixels of the upright original; may reach beyond it.
        input: uint8 [H, W, 3], the same as the network's input.
    """

    index: int
    label: str
    score: float
    layer: str
    channels: int
    rows: int
    columns: int
    strongest: tuple[Activation, ...]
    region: Box
    input: Pixels

    @property
    def note(self) -> str:
        """As of a heat map."""
        if any(one.peak > 0 for one in self.strongest):
            return ""
        return f"no channel of the layer {self.layer} answers to the image"

    @property
    def caption(self) -> str:
        """As of a heat map."""
        what = f"{len(self.strongest)} of {self.channels} channels of {self.rows} x {self.columns}"
        return f"{self.label}: {shown(self.score)} ({self.layer}: {what})"


CELLS: Final = 32
"""Most rows and columns of an activation's grid."""


@dataclass(frozen=True, slots=True)
class WindowMap:
    """One label's scores over an image.

    Attributes:
        index, label: the class looked for.
        scores: float32 [gh, gw], the class's probability in each window.
        step: x, y distance of neighbouring windows, in pixels of the upright original.
        window: width, height of a window, in the same pixels; window (row, column) begins at
            (column * step[0], row * step[1]).
        boxes: the windows over the threshold that survive non-maximum suppression, by falling score.
        threshold: least score of a box.
    """

    index: int
    label: str
    scores: NDArray[np.float32]
    step: tuple[float, float]
    window: tuple[float, float]
    boxes: tuple[Detection, ...]
    threshold: float = 0.0

    @property
    def score(self) -> float:
        """Of the likeliest window."""
        return float(self.scores.max())

    @property
    def note(self) -> str:
        """As of a heat map."""
        if self.boxes:
            return ""
        return f"no window has a score of {shown(self.threshold)} or more; the highest is {shown(self.score)}"

    @property
    def caption(self) -> str:
        """As of a heat map."""
        return f"{self.label}: {shown(self.score)} in the likeliest window"


Explanation = HeatMap | WindowMap | ActivationMap


def find_label(card: Card, label: str) -> int:
    """The index of a label by its name, or by its index in digits where no label has that name.

    Raises:
        ParameterInvalid: the model has no such label.
    """
    if label in card.labels:
        return card.labels.index(label)
    if label.isascii() and label.isdigit() and len(label) < 10 and int(label) < len(card.labels):
        return int(label)
    what = f"the model {card.name!r} has no label {echoed(label)}"
    if label.lstrip("-").isdigit():
        raise ParameterInvalid("label", f"{what}; indices are 0 to {len(card.labels) - 1}")
    raise ParameterInvalid("label", f"{what}; {nearest(label, card.labels)}")


def find_layer(model: str, layers: Sequence[Layer], name: str | None) -> Layer:
    """A layer by its name, or that of a module that it holds.

    Args:
        model: for the error's text.
        layers: of the model, at least one.
        name: None: the last one whose maps have more than one place.

    Raises:
        ParameterInvalid: there is no such layer; names those that are nearly called so.
    """
    if name is None:
        return [layer for layer in layers if layer.height * layer.width > 1 or layer is layers[0]][-1]
    for layer in layers:
        if name in layer.modules:
            return layer
    near = nearest(name, [layer.name for layer in layers])
    raise ParameterInvalid("layer", f"the model {model!r} has no layer {echoed(name)}; {near}")


def check_channel(layer: Layer, channel: int) -> None:
    """
    Raises:
        ParameterInvalid: the layer has no such channel.
    """
    if not 0 <= channel < layer.channels:
        what = f"the layer {layer.name} has channels 0 to {layer.channels - 1}, and none {channel}"
        raise ParameterInvalid("channel", what)


def nearest(name: str, known: Sequence[str]) -> str:
    """Which of the known names is nearly a given one, or holds it, as the end of an error's text."""
    wanted = name[:ECHO].lower()
    by_lower = {one.lower(): one for one in reversed(known)}
    near = get_close_matches(wanted, by_lower, 3, 0.6)
    near += [one for one in by_lower if wanted in one and one not in near] if len(wanted) > 2 else []
    if near:
        return f"did you mean {', '.join(by_lower[one] for one in near[:3])}?"
    return f"there are {', '.join(known[:5])}{' and others' if len(known) > 5 else ''}"
