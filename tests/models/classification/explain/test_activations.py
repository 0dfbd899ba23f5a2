"""A layer's strongest channels, against hooks on the network itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from models.classification.classifier import Classifier
from models.classification.efficientnet import EfficientNetLite
from models.classification.explain.activations import activations
from models.classification.pipeline import ClassifierPipeline
from models.errors import ParameterInvalid
from tests.models.classification.explain.test_cam import digits, lively, picture, pipeline_of


@pytest.fixture(scope="module")
def lite() -> ClassifierPipeline:
    torch.manual_seed(0)
    return pipeline_of(lively(EfficientNetLite(10)))


def by_hook(pipeline: ClassifierPipeline, layer: str) -> tuple[Tensor, Tensor]:
    """A layer's maps [C, h, w] and the scores [classes]."""
    kept: list[Tensor] = []
    module = pipeline.module
    assert isinstance(module, Classifier)
    handle = module.network.get_submodule(layer).register_forward_hook(
        lambda one, given, made: kept.append(made.clone())
    )
    with torch.inference_mode():
        scores = module(torch.from_numpy(pipeline.preprocess(picture()).inputs[0])[None])[0][0]
    handle.remove()
    return kept[0][0], scores


@pytest.mark.parametrize("layer", ["backbone.stem", "backbone.blocks.3.project", "head"])
def test_the_strongest_channels_are_those_of_the_layer(lite: ClassifierPipeline, layer: str) -> None:
    maps, scores = by_hook(lite, layer)
    found = activations(lite, picture(), layer=layer, top=5)
    strength = maps.clamp(min=0).mean((1, 2))
    order = strength.sort(descending=True, stable=True)[1][:5]
    assert [one.channel for one in found.strongest] == order.tolist()
    assert (found.channels, found.rows, found.columns) == tuple(maps.shape)
    assert found.index == int(scores.argmax())
    assert found.score == pytest.approx(float(scores.max()), rel=1e-4)
    for one in found.strongest:
        expected = maps[one.channel]
        assert one.mean == pytest.approx(float(expected.mean()), abs=1e-5)
        assert one.peak == pytest.approx(float(expected.max()), abs=1e-5)
        assert max(one.grid.shape) <= 32
        if max(expected.shape) <= 32:
            np.testing.assert_allclose(one.grid, expected, atol=1e-5)
        assert one.grid.mean() == pytest.approx(one.mean, rel=0.01)  # cells may overlap


def test_a_label_and_a_layer_of_few_channels() -> None:
    found = activations(digits(), picture(), "3", layer="features.0", top=64)
    assert (found.index, found.label, len(found.strongest)) == (3, "3", 6)
    assert found.input.shape == (32, 32, 3)
    assert found.caption.startswith("3: ")
    assert found.note == ""


def test_threads_do_not_disturb_each_other(lite: ClassifierPipeline) -> None:
    layers = ["backbone.blocks.3", "backbone.blocks.9", "head"] * 3
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda layer: activations(lite, picture(), layer=layer, top=3), layers))
    for layer, one in zip(layers, found, strict=True):
        again = activations(lite, picture(), layer=layer, top=3)
        assert [of.channel for of in one.strongest] == [of.channel for of in again.strongest]


def test_unknown_names_are_refused(lite: ClassifierPipeline) -> None:
    with pytest.raises(ParameterInvalid, match="did you mean head"):
        activations(lite, picture(), layer="heads")
    with pytest.raises(ParameterInvalid, match="did you mean class 7"):
        activations(lite, picture(), "klass 7")
