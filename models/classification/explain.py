"""Explanations of a classifier: Grad-CAM heat maps, and its first layer's filters as an image.

Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization" (ICCV 2017, https://arxiv.org/abs/1610.02391), equations 1 and 2.

A network is observed through a function mode, which is local to the calling thread; the module has no
hooks, so that others may run it at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.classification.classifier import Classifier
from models.classification.maps import Box, HeatMap, find_label
from models.classification.pipeline import ClassifierPipeline
from models.errors import ParameterInvalid
from models.image import Image, Pixels
from models.pipeline import Card


@runtime_checkable
class Placed(Protocol):
    """A pipeline that knows the region of an image that is its network's input; default: the centre crop."""

    def region(self, image: Image) -> Box:
        """xyxy in pixels of the upright original; may reach beyond it."""
        ...


def grad_cam(pipeline: ClassifierPipeline, image: Image, label: str | None = None) -> HeatMap:
    """The heat map of one label on one image.

    Args:
        pipeline: a classifier with convolutions.
        image: the decoded image.
        label: a name of the card's labels, or an index in digits (for names that stand twice); None explains
            the likeliest class.

    Raises:
        ParameterInvalid: no such label, or the network has no convolutional map to explain (a transformer).
    """
    module = pipeline.module
    if not isinstance(module, Classifier):
        raise ParameterInvalid("model", f"the model {pipeline.card.name!r} cannot be explained")
    prepared = pipeline.preprocess(image)
    index = None if label is None else find_label(pipeline.card, label)
    with torch.inference_mode(False), torch.enable_grad():
        batch = torch.from_numpy(prepared.inputs[0])[None].to(module.mean.device)
        inputs = module.normalise(
            batch
        ).requires_grad_()  # the weights need no gradient: the graph begins here
        with _LastMap() as watch:
            logits = module.network(inputs)[0]
        if watch.features is None:
            raise ParameterInvalid("model", f"the model {pipeline.card.name!r} has no convolutional map")
        if index is None:
            index = int(logits.argmax())
        (gradient,) = torch.autograd.grad(logits[index], watch.features)
    features = watch.features.detach()[0].float()
    weights = gradient[0].float().mean((1, 2))  # equation 1: the weight of each map
    heat = torch.einsum("c,chw->hw", weights, features).relu()  # equation 2
    grid = (heat / heat.max().clamp(min=torch.finfo(torch.float32).tiny)).cpu().numpy()
    region = pipeline.region(image) if isinstance(pipeline, Placed) else _centre(pipeline.card, image)
    score = float(logits.detach().float().softmax(0)[index])
    return HeatMap(index, pipeline.card.labels[index], score, grid, region, image.width, image.height)


class _LastMap(TorchFunctionMode):
    """Keeps the feature map of the last convolution, after whatever follows it at the same resolution.

    Those are its norm, its activation, the sum with a shortcut, the concatenation with other branches. A
    convolution whose output is a single pixel (a fully connected layer, squeeze and excitation) is none. One
    convolution alone is a transformer's patch embedding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = 0
        self._features: Tensor | None = None

    @property
    def features(self) -> Tensor | None:
        """Tensor[1, C, gh, gw], or None when there was no such map."""
        return self._features if self.convolutions > 1 else None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dim() == 4 and result.requires_grad:
            if func is torch.conv2d:
                if result.shape[2:].numel() > 1:
                    self.convolutions += 1
                    self._features = result
            elif self._features is not None and result.shape[2:] == self._features.shape[2:]:
                self._features = result
        return result


def _centre(card: Card, image: Image) -> Box:
    side = min(image.width, image.height) * card.crop_fraction
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return left, top, left + side, top + side


def filter_sheet(module: nn.Module, *, cell: int = 32, gap: int = 2) -> Pixels:
    """The first convolution's filters side by side -> uint8 RGB [height, width, 3].

    Each filter is stretched to its own full range and enlarged without smoothing. Filters over three channels
    are shown in colour, others as the mean over their channels in grey.

    Args:
        module: any network.
        cell: least side of one filter in pixels.
        gap: pixels between filters.

    Raises:
        ParameterInvalid: the network has no convolution.
    """
    first = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None:
        raise ParameterInvalid("model", "the model has no convolution whose filters could be shown")
    filters = first.weight.detach().float().cpu()
    if filters.shape[1] != 3:
        filters = filters.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    low, high = filters.amin((1, 2, 3), keepdim=True), filters.amax((1, 2, 3), keepdim=True)
    levels = (
        ((filters - low) / (high - low).clamp(min=1e-12) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    )
    count, height, width, _ = levels.shape
    factor = max(1, math.ceil(cell / max(height, width)))
    tiles = levels.repeat(factor, axis=1).repeat(factor, axis=2)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    step_y, step_x = height * factor + gap, width * factor + gap
    sheet = np.full((rows * step_y + gap, columns * step_x + gap, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        y, x = gap + number // columns * step_y, gap + number % columns * step_x
        sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return sheet
