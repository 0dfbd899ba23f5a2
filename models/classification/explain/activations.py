"""Which channels of a layer answer to an image most strongly.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014,
https://arxiv.org/abs/1311.2901), show feature maps so; the order is by the mean of what is positive, as a
rectified activation has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.classification.classifier import Classifier
from models.classification.explain.layers import layer_of, twin
from models.classification.explain.maps import CELLS, Activation, ActivationMap, Layer, find_label
from models.classification.pipeline import ClassifierPipeline
from models.errors import ParameterInvalid
from models.image import Image

MOST = 64
"""Channels of one answer."""


def classifier_of(pipeline: ClassifierPipeline) -> Classifier:
    """A pipeline's network with what is around it.

    Raises:
        ParameterInvalid: it is an exported graph, which has neither layers nor gradients.
    """
    module = pipeline.module
    if not isinstance(module, Classifier):
        what = "is an exported graph, without layers and gradients: kind=occlusion explains it"
        raise ParameterInvalid("model", f"the model {pipeline.card.name!r} {what}")
    return module


@contextmanager
def watched(network: nn.Module, layer: Layer) -> Iterator[Callable[[], Tensor]]:
    """What gives the layer's output, Tensor[N, C, h, w], of the latest pass of a network within."""
    kept: list[Tensor] = []

    def keep(one: nn.Module, inputs: object, output: Tensor) -> None:
        kept[:] = [output]

    handle = network.get_submodule(layer.name).register_forward_hook(keep)
    try:
        yield lambda: kept[0]
    finally:
        handle.remove()


def activations(
    pipeline: ClassifierPipeline,
    image: Image,
    label: str | None = None,
    *,
    layer: str | None = None,
    top: int = 16,
) -> ActivationMap:
    """The strongest channels of a layer for an image.

    Args:
        pipeline: a classifier whose layers are known.
        image: decoded.
        label: whose score is told; None: the likeliest.
        layer: see `maps.find_layer`.
        top: how many channels, at most `MOST`; fewer where the layer has fewer.

    Raises:
        ParameterInvalid: no such label or layer, or an exported graph.
    """
    module = classifier_of(pipeline)
    index = None if label is None else find_label(pipeline.card, label)
    found = layer_of(pipeline, layer)
    pixels = pipeline.preprocess(image).inputs[0]
    # of a thread: the module's own batches go through other objects
    network = twin(module.network, module, lambda one: one)
    with torch.inference_mode(), watched(network, found) as output:
        inputs = module.normalise(torch.from_numpy(pixels)[None].to(module.mean.device))
        scores = network(inputs)[0].float().softmax(0)
        maps = output()[0].float().cpu()
    index = int(scores.argmax()) if index is None else index
    strength = maps.relu().mean((1, 2))
    order = strength.argsort(descending=True, stable=True)[: min(top, MOST)]
    grids = maps[order]
    if max(maps.shape[1:]) > CELLS:
        grids = F.adaptive_avg_pool2d(grids, (min(CELLS, maps.shape[1]), min(CELLS, maps.shape[2])))
    strongest = tuple(
        Activation(channel, float(maps[channel].mean()), float(maps[channel].max()), grid.numpy())
        for channel, grid in zip(order.tolist(), grids, strict=True)
    )
    return ActivationMap(
        index,
        pipeline.card.labels[index],
        float(scores[index]),
        found.name,
        found.channels,
        found.height,
        found.width,
        strongest,
        pipeline.region(image),
        pixels if pixels.shape[2] == 3 else pixels.repeat(3, axis=2),
    )
