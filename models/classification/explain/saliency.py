"""Saliency: how much each place of an image adds to a label's score, by gradients along a path.

Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (ICML 2017,
https://arxiv.org/abs/1703.01365), equation 1: gradients are integrated on the straight path from a baseline
to the image; the attributions sum to the difference of the two scores ("completeness", proposition 1).
Smilkov, Thorat, Kim, Viégas and Wattenberg, "SmoothGrad: removing noise by adding noise" (2017,
https://arxiv.org/abs/1706.03825): the mean over noisy copies of the image is less rough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.classification.explain.activations import classifier_of
from models.classification.explain.maps import HeatMap, find_label
from models.classification.pipeline import ClassifierPipeline
from models.errors import ParameterInvalid
from models.image import Image

SAMPLES: Final = 3
"""Noisy copies of the image."""

STEPS: Final = 10
"""Points of each path."""

NOISE: Final = 0.1
"""Standard deviation of the noise, of the range of the input's levels: section 3.1 finds 0.1 to 0.2 best."""

BATCH: Final = 5
"""Points of the paths that one pass computes."""

CELL: Final = 4
"""Side in pixels of a cell of the map: of one pixel the gradient is noise."""

MOST_PIXELS: Final = 64 * 384 * 384
"""Of all passes together, forward and backward; known before the first one."""


def integrated_gradients(
    score: Callable[[Tensor], Tensor],
    inputs: Tensor,
    baseline: Tensor,
    steps: int,
    *,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """The attributions of one input, by the midpoint rule.

    Args:
        score: Tensor[N, ...] -> Tensor[N], each of its own input alone.
        inputs, baseline: Tensor[...] both.
        steps: points of the path.
        check: called before every pass of the network.

    Returns:
        Tensor[...], whose sum tends to score(inputs) - score(baseline) as the steps get more.
    """
    total = torch.zeros_like(inputs)
    shares = (torch.arange(steps, device=inputs.device) + 0.5) / steps
    for some in shares.split(BATCH):
        check()
        points = baseline + some.view(-1, *[1] * inputs.dim()) * (inputs - baseline)
        points.requires_grad_()
        (gradients,) = torch.autograd.grad(score(points).sum(), points)
        total += gradients.sum(0)
    return (inputs - baseline) * total / steps


def saliency(
    pipeline: ClassifierPipeline,
    image: Image,
    label: str | None = None,
    *,
    check: Callable[[], None] = lambda: None,
) -> HeatMap:
    """What raises a label's score, in cells of `CELL` pixels of the network's input.

    The baseline is the mean colour of the image; of the sums of a cell's attributions those over zero are
    shown, up to their 99th percentile. The noise is the same for every call.

    Args:
        pipeline: a classifier with gradients.
        image: decoded.
        label: as `grad_cam` takes it.
        check: called before every pass of the network; it raises what ends the work.

    Raises:
        ParameterInvalid: no such label, an exported graph, or an input that is too large.
    """
    module = classifier_of(pipeline)
    index = None if label is None else find_label(pipeline.card, label)
    height, width, _ = pipeline.shapes[0]
    if SAMPLES * STEPS * height * width > MOST_PIXELS:
        what = f"takes inputs of {height} x {width} pixels, too many for kind=saliency"
        raise ParameterInvalid("model", f"the model {pipeline.card.name!r} {what}")
    pixels = torch.from_numpy(pipeline.preprocess(image).inputs[0])[None].to(module.mean.device)
    with torch.inference_mode(False), torch.enable_grad():
        inputs = module.normalise(pixels.clone())[0]
        with torch.no_grad():
            scores = module.network(inputs[None])[0].float().softmax(0)
        chosen = int(scores.argmax()) if index is None else index

        def score(points: Tensor) -> Tensor:
            logits: Tensor = module.network(points)
            return logits.float().softmax(1)[:, chosen]

        noise = torch.Generator().manual_seed(0)
        deviation = NOISE * float(inputs.max() - inputs.min())
        total = torch.zeros_like(inputs)
        for _ in range(SAMPLES):
            added = torch.randn(inputs.shape, generator=noise).to(inputs.device)
            noisy = inputs + deviation * added
            baseline = noisy.mean((1, 2), keepdim=True).expand_as(noisy)
            total += integrated_gradients(score, noisy, baseline, STEPS, check=check)
    grid = _cells(total.float().cpu().sum(0)).relu()
    bright = float(torch.quantile(grid, 0.99)) or float(grid.max())
    heat = (grid / bright).clamp(max=1) if bright > 0 else grid
    return HeatMap(
        chosen,
        pipeline.card.labels[chosen],
        float(scores[chosen]),
        np.ascontiguousarray(heat.numpy()),
        pipeline.region(image),
        image.width,
        image.height,
        "smoothed integrated gradients",
    )


def _cells(attributions: Tensor) -> Tensor:
    """Sums of cells, Tensor[H, W] -> Tensor[ceil(H / CELL), ceil(W / CELL)], and a little of those beside."""
    height, width = attributions.shape
    padded = F.pad(attributions[None, None], (0, -width % CELL, 0, -height % CELL))
    cells = F.avg_pool2d(padded, CELL) * CELL**2
    kernel = torch.tensor([1.0, 2.0, 1.0])
    blur = torch.outer(kernel, kernel) / 16
    smooth: Tensor = F.conv2d(F.pad(cells, (1, 1, 1, 1), mode="replicate"), blur[None, None])[0, 0]
    return smooth
