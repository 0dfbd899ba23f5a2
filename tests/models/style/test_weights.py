"""The style network that is served: each style is its painting's, and the picture stays what it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models import registry
from models.classification.efficientnet import load as load_classifier
from models.image import Image, Pixels, decode, resize
from models.pipeline import eager
from models.style.losses import Perceptual, content_cost, style_cost
from models.style.pipeline import StylePipeline
from models.style.result import StyleOptions
from models.training.style.data import painting
from models.weights import Catalogue, Store
from tests.paths import SHARED, needs_shared

pytestmark = needs_shared
PHOTOS = ("dog", "horses", "giraffe")


@pytest.fixture(scope="module")
def pipeline() -> StylePipeline:
    built = registry.build("paintings", Catalogue(), Store())
    assert isinstance(built, StylePipeline)
    return built


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    weights = Store().files(Catalogue()["efficientnet-lite0"])["weights"]
    return Perceptual(load_classifier(weights).backbone.eval())


def scaled(name: str, longest: int) -> Image:
    image = decode((SHARED / "data" / name).read_bytes())
    scale = longest / max(image.width, image.height)
    pixels = resize(image.pixels, round(image.height * scale), round(image.width * scale))
    return Image(pixels, pixels.shape[1], pixels.shape[0])


LEARNT = {"starry_night": 576, "the_scream": 512, "great_wave": 928, "udnie": 512, "shipwreck": 640}
"""Longest side of each painting in training, see `models/weights/paintings.md`."""

PART = {"udnie": (0.03, 0.25, 0.66, 0.88)}


def learnt(name: str) -> Pixels:
    path = SHARED / "data" / "styles" / f"{name}.jpg"
    return painting(path, LEARNT[name], part=PART.get(name, (0.0, 0.0, 1.0, 1.0))).pixels


def planes(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("photo", PHOTOS)
def test_a_picture_takes_on_its_own_painting_and_keeps_its_content(
    pipeline: StylePipeline, perceptual: Perceptual, photo: str
) -> None:
    """By the costs of Gatys et al., on a picture that the network has not seen."""
    picture = scaled(f"photos/{photo}.jpg", 320)
    others = [scaled(f"photos/{name}.jpg", 320) for name in PHOTOS if name != photo]
    with torch.inference_mode():
        names = [style.name for style in pipeline.styles]
        paintings = [perceptual(planes(learnt(name)))[1] for name in names]
        before = perceptual(planes(picture.pixels))
        for index, name in enumerate(names):
            item = pipeline.preprocess(picture, StyleOptions(style=name))
            outputs = eager(pipeline.module, item.inputs[0][None])
            painted = pipeline.postprocess(outputs, [item.context])[0].pixels
            features, grams = perceptual(planes(painted))
            costs = [style_cost(grams, painting).item() for painting in paintings]
            assert int(np.argmin(costs)) == index, (name, costs)
            # style is trained as the mean of a batch: one image need not hold all of its painting
            assert costs[index] < 0.55 * style_cost(before[1], paintings[index]).item(), name
            # nearer to the photo than other photos of this size are
            kept = content_cost(features, before[0]).item()
            for other in others:
                same = resize(other.pixels, *picture.pixels.shape[:2])
                assert kept < content_cost(perceptual(planes(same))[0], before[0]).item(), name
