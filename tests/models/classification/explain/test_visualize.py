"""Activation maximisation: the activation rises, the seed decides, and a step can be the last."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.classification.classifier import Classifier
from models.classification.explain.result import VisualizeOptions
from models.classification.explain.visualize import VisualizeStep, visualize
from models.errors import ParameterInvalid
from tests.models.classification.explain.test_cam import digits

CHANNEL = VisualizeOptions(layer="features.3", channel=5, steps=40, preview_every=10)


def activation_of(pixels: np.ndarray, layer: str, channel: int) -> float:
    """The mean of a channel for an image, by a hook on the network itself."""
    module = digits().module
    assert isinstance(module, Classifier)
    kept: list[torch.Tensor] = []
    module.network.get_submodule(layer).register_forward_hook(lambda one, given, made: kept.append(made))
    with torch.inference_mode():
        module(torch.from_numpy(np.array(pixels))[None])
    return float(kept[0][0, channel].mean())


def test_a_channel_answers_more_than_to_anything_by_chance() -> None:
    told: list[VisualizeStep] = []
    pixels = visualize(digits(), CHANNEL, progress=told.append)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert [one.step for one in told] == list(range(1, 41))
    assert [one.step for one in told if one.preview is not None] == [10, 20, 30, 40]
    assert told[-1].activation > told[0].activation
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)
    chance = max(activation_of(one, "features.3", 5) for one in noise)
    assert activation_of(pixels, "features.3", 5) > chance


def test_a_label_is_recognised() -> None:
    pixels = visualize(digits(), VisualizeOptions(label="3", steps=60))
    module = digits().module
    scores = module(torch.from_numpy(np.array(pixels))[None])[0][0]
    assert int(scores.argmax()) == 3


def test_the_seed_decides() -> None:
    few = CHANNEL.model_copy(update={"steps": 4})
    one, again = visualize(digits(), few), visualize(digits(), few)
    np.testing.assert_array_equal(one, again)
    assert (visualize(digits(), few.model_copy(update={"seed": 1})) != one).any()
    assert visualize(digits(), few.model_copy(update={"size": 48})).shape == (48, 48, 3)


def test_progress_may_end_it() -> None:
    told: list[int] = []

    class Ended(Exception):
        pass

    def progress(step: VisualizeStep) -> None:
        told.append(step.step)
        if step.step == 3:
            raise Ended

    pipeline = digits()
    with pytest.raises(Ended):
        visualize(pipeline, CHANNEL, progress=progress)
    assert told == [1, 2, 3]
    assert not any(one._forward_hooks for one in pipeline.module.modules())


@pytest.mark.parametrize(
    ("wrong", "parameter"),
    [
        ({}, "channel"),
        ({"layer": "features.3"}, "channel"),
        ({"layer": "features.3", "channel": 16}, "channel"),
        ({"layer": "feature.3", "channel": 0}, "layer"),
        ({"label": "11"}, "label"),
        ({"label": "1", "channel": 2}, "label"),
    ],
)
def test_what_is_not_there_is_refused(wrong: dict[str, object], parameter: str) -> None:
    with pytest.raises(ParameterInvalid) as caught:
        visualize(digits(), VisualizeOptions.of(wrong))
    assert caught.value.parameter == parameter
