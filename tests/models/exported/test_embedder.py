"""Face embedders of another geometry, by a catalogue alone: template, metric, length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.errors import ParameterInvalid, WeightsError
from models.exported.pipeline import ARCFACE
from models.faces.align import cut_faces
from models.faces.result import Embedding, Face
from models.faces.verify import compare
from models.image import Image
from models.pipeline import Kind, eager
from tests.models.exported.files import export, served
from tests.models.image.test_decode import smooth

OPTIONS: dict[str, Any] = {
    "size": [112, 112],
    "scale": 1.0,
    "mean": [127.5],
    "std": [127.5],
    "threshold": 0.6,
}


class ArcFace(nn.Module):
    """A small network of that layout: [N, 3, 112, 112] -> [N, 64]."""

    def __init__(self, side: int = 112) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 7, 4, 3), nn.PReLU(8), nn.Flatten(), nn.Linear(8 * (side // 4) ** 2, 64)
        )

    def forward(self, images: Tensor) -> Tensor:
        vectors: Tensor = self.layers(images)
        return vectors


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(ArcFace(), tmp_path_factory.mktemp("arcface") / "arcface.onnx", (3, 112, 112))


def embedded(pipeline: Any, image: Image) -> Embedding:
    prepared = pipeline.preprocess(image)
    outputs = eager(pipeline.module, prepared.inputs[0][None])
    (result,) = pipeline.postprocess(outputs, [prepared.context])
    assert isinstance(result, Embedding)
    return result


def test_the_card_has_the_space(path: Path) -> None:
    card = served(Kind.EMBED, path, **OPTIONS).card
    space = card.space
    assert (space.dimensions, space.threshold, space.metric, space.template.side) == (64, 0.6, "cosine", 112)
    assert card.details["metric"] == "cosine"


def test_vectors_are_the_networks_and_of_length_one_if_asked(path: Path) -> None:
    image = Image(smooth(112, 112), 112, 112)
    network = ArcFace().eval()
    with torch.inference_mode():
        wanted = network((torch.from_numpy(image.pixels).permute(2, 0, 1)[None].float() - 127.5) / 127.5)[
            0
        ].numpy()
    plain = embedded(served(Kind.EMBED, path, **OPTIONS, normalize=False), image)
    np.testing.assert_allclose(plain.vector, wanted, atol=1e-4)
    unit = embedded(served(Kind.EMBED, path, **OPTIONS), image)
    np.testing.assert_allclose(unit.vector, wanted / np.linalg.norm(wanted), atol=1e-5)


def test_a_crop_is_insightfaces(path: Path) -> None:
    """`norm_crop` there is `cv2.warpAffine` with the similarity of the landmarks; here on a smooth image."""
    template = served(Kind.EMBED, path, **OPTIONS).card.space.template
    pixels = smooth(300, 300)
    # the template turned, enlarged and moved, in OpenCV's coordinates (the first pixel's centre is 0)
    angle, zoom, shift = 0.3, 1.3, np.array([60.0, 40.0])
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = np.array(ARCFACE) @ turn.T + shift
    matrix = np.hstack([turn, shift[:, None]])
    wanted = cv2.warpAffine(pixels, matrix, (112, 112), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    points = tuple((x + 0.5, y + 0.5) for x, y in landmarks)
    face = Face((0.0, 0.0, 300.0, 300.0), 1.0, points)  # type: ignore[arg-type]
    (chip,) = cut_faces(Image(pixels, 300, 300), [face], template)
    assert np.abs(chip.pixels.astype(int) - wanted)[2:-2, 2:-2].mean() < 1.5


@pytest.mark.parametrize(("side", "eye"), [(112, 38.2946), (224, 2 * 38.2946), (128, 38.2946 + 8)])
def test_the_template_follows_the_size(side: int, eye: float, tmp_path: Path) -> None:
    path = export(ArcFace(side), tmp_path / "other.pt", (3, side, side))
    template = served(Kind.EMBED, path, **OPTIONS | {"size": [side, side]}).card.space.template
    assert template.landmarks[0][0] == pytest.approx(eye + 0.5)


def test_what_does_not_fit_is_told(path: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"threshold": -1.0}, r"options\.threshold is missing"),
        ({"metric": "manhattan"}, r"options\.metric is 'manhattan', none of cosine, euclidean"),
        ({"template": ""}, r"options\.landmarks has 0 numbers, not 10"),
        ({"landmarks": [1.0] * 10}, r"options\.landmarks has 10 numbers, not 0 beside a template"),
    ):
        with pytest.raises(WeightsError, match=message):
            served(Kind.EMBED, path, **OPTIONS | options)
    odd = export(ArcFace(100), tmp_path / "odd.pt", (3, 100, 100))
    with pytest.raises(WeightsError, match=r"options\.template is arcface, for sides of 112 or 128"):
        served(Kind.EMBED, odd, **OPTIONS | {"size": [100, 100]})
    points = [30.0, 40.0, 70.0, 40.0, 50.0, 60.0, 35.0, 80.0, 65.0, 80.0]
    own = served(Kind.EMBED, odd, **OPTIONS | {"size": [100, 100], "template": "", "landmarks": points})
    assert own.card.space.template.landmarks[4] == (65.0, 80.0)


def test_cosine_decides_where_the_space_says_so(path: Path) -> None:
    card = served(Kind.EMBED, path, **OPTIONS).card
    a, b = np.zeros(64, np.float32), np.zeros(64, np.float32)
    a[0], b[:2] = 5.0, (3.0, 4.0)  # cosine 0.6, whatever their lengths
    verdict = compare(Embedding(a, card.sha256), Embedding(b, card.sha256), card)
    assert (verdict.distance, verdict.similarity) == (pytest.approx(0.4), pytest.approx(0.6))
    assert (verdict.verified, verdict.metric, verdict.threshold) == (True, "cosine", 0.6)
    assert not compare(Embedding(a, card.sha256), Embedding(b, card.sha256), card, 0.39).verified
    with pytest.raises(ParameterInvalid, match="of another model"):
        compare(Embedding(a, card.sha256), Embedding(b, "00" * 32), card)
