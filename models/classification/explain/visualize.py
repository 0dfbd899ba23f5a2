"""Activation maximisation: an image to which a channel of a layer, or a label, answers most strongly.

Olah, Mordvintsev and Schubert, "Feature Visualization" (Distill 2017,
https://distill.pub/2017/feature-visualization): gradient ascent on an image that is jittered, scaled and
turned a little before every pass ("transformation robustness"), so that no pattern of single pixels raises
the activation; its parameters are Fourier coefficients in decorrelated colours (see `models.fourier`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.classification.classifier import Classifier
from models.classification.explain.activations import classifier_of
from models.classification.explain.layers import layer_of
from models.classification.explain.maps import Layer, check_channel, find_label
from models.classification.explain.result import VisualizeOptions, check_target
from models.classification.pipeline import ClassifierPipeline
from models.fourier import FourierImage
from models.image import Pixels

RATE: Final = 0.0125
"""Of Adam."""

JITTER, ZOOM, TURN = 0.06, 0.1, 8.0
"""How far an image is moved (of its side), scaled (of its size) and turned (degrees) at most for a pass."""


@dataclass(frozen=True, slots=True)
class VisualizeStep:
    """The progress of a visualisation.

    Attributes:
        step, steps: done, from 1; how many there will be.
        activation: before this step: the channel's mean, or the label's logit.
        preview: uint8 [h, w, 3], the image as it is, or None at a step without a preview.
    """

    step: int
    steps: int
    activation: float
    preview: Pixels | None


def visualize(
    pipeline: ClassifierPipeline,
    options: VisualizeOptions,
    *,
    progress: Callable[[VisualizeStep], None] = lambda step: None,
) -> Pixels:
    """An image for a channel or a label; the same options give the same image on one machine.

    Args:
        pipeline: a classifier with gradients; its network is used by nothing else meanwhile.
        options: what to make.
        progress: called after every step; raises what ends the work.

    Returns:
        uint8 [size, size, 3], RGB.

    Raises:
        ParameterInvalid: there is no such layer, channel or label, or both or neither of channel and label.
    """
    module = classifier_of(pipeline)
    objective = _objective(pipeline, module, options)
    height, width, _ = pipeline.shapes[0]
    generator = torch.Generator().manual_seed(options.seed)
    side = options.size or max(height, width)
    image = FourierImage(side, side, generator=generator)
    optimiser = torch.optim.Adam(image.parameters(), lr=RATE)
    for step in range(1, options.steps + 1):
        moved = _moved(image(), height, width, generator)
        activation = objective((moved * 255 - module.mean) / module.scale)
        optimiser.zero_grad(set_to_none=True)
        (-activation).backward()
        optimiser.step()
        shown = options.preview_every > 0 and step % options.preview_every == 0
        progress(
            VisualizeStep(step, options.steps, float(activation.detach()), _bytes(image) if shown else None)
        )
    return _bytes(image)


class _Reached(Exception):
    """The layer has answered: what is behind it is not computed."""


def _objective(
    pipeline: ClassifierPipeline, module: Classifier, options: VisualizeOptions
) -> Callable[[Tensor], Tensor]:
    """Of the network's normalised input, Tensor[1, 3, H, W], the number that is to rise."""
    check_target(options)
    if options.label is not None:
        index = find_label(pipeline.card, options.label)

        def logit(inputs: Tensor) -> Tensor:
            logits: Tensor = module.network(inputs)
            return logits[0, index]

        return logit
    layer, channel = layer_of(pipeline, options.layer), options.channel or 0
    check_channel(layer, channel)
    return lambda inputs: _output(module.network, layer, inputs)[0, channel].mean()


def _output(network: nn.Module, layer: Layer, inputs: Tensor) -> Tensor:
    """A layer's output, Tensor[N, C, h, w]."""
    kept: list[Tensor] = []
    at = layer.modules[-1]

    def keep(one: nn.Module, given: object, output: Tensor) -> None:
        kept.append(output)
        raise _Reached

    handle = network.get_submodule(at).register_forward_hook(keep)
    try:
        network(inputs)
    except _Reached:
        pass
    finally:
        handle.remove()
    return kept[0]


def _moved(image: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """The image moved, scaled and turned at random, at the size of the network's input."""
    across, down, zoom, turn = (2 * torch.rand(4, generator=generator) - 1).tolist()
    angle, scale = math.radians(TURN * turn), 1 + ZOOM * zoom
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    matrix = torch.tensor([[[cosine, -sine, 2 * JITTER * across], [sine, cosine, 2 * JITTER * down]]])
    grid = F.affine_grid(matrix, [1, 3, height, width], align_corners=False)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _bytes(image: FourierImage) -> Pixels:
    with torch.no_grad():
        levels = (image()[0] * 255).round().byte().permute(1, 2, 0)
    pixels: Pixels = np.ascontiguousarray(levels.numpy())
    return pixels
