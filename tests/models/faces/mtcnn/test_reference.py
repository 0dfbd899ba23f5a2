"""MTCNN against facenet-pytorch's own code, which its weights come from."""

from __future__ import annotations

import importlib
import shutil
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from models.errors import WeightsError
from models.faces.mtcnn import pyramid
from models.faces.mtcnn.pyramid import GREY
from models.image import Image
from models.pipeline import eager
from models.weights import Catalogue, Entry, File, Store
from tests.models.faces.portraits import files, mtcnn_with, picture, portrait
from tests.paths import needs_shared

PACKAGE = "facenet-pytorch==2.6.0"
REFERENCE = {  # the code that the weights came with
    "models/mtcnn.py": "29a965963337313068ab335cbc48f4a4facc2e5857756ef7b9ab11e5c1d6b620",
    "models/utils/detect_face.py": "7f6244c8118b9a19d0b6620e6dcb90625cced5b1eceed58d0d69303b5ccbab06",
}
COMPARED = ("obama/3.jpg", "kit_harington/1.jpg", "groups/kit_with_rose.jpg", "groups/two_people.jpg")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """facenet-pytorch's class MTCNN: its two files out of the wheel, without the package's dependencies."""
    weights = files("mtcnn")
    wanted = {
        path: File("pypi", f"facenet_pytorch/{path}", digest, PACKAGE) for path, digest in REFERENCE.items()
    }
    entry = Entry("facenet", Catalogue()["mtcnn"].task, "mtcnn", "MIT", wanted)
    try:
        found = Store().fetch(entry)
    except WeightsError as error:
        pytest.skip(str(error))
    root = tmp_path_factory.mktemp("reference")
    package = root / "facenet_reference"
    for path, local in found.items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(local, package / path)
    (package / "data").mkdir()
    for name, role in (("pnet", "pnet"), ("rnet", "rnet"), ("onet", "weights")):
        shutil.copy(weights[role], package / "data" / f"{name}.pt")
    sys.path.insert(0, str(root))
    try:
        yield importlib.import_module("facenet_reference.models.mtcnn").MTCNN
    finally:
        sys.path.remove(str(root))


Found = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def reference_faces(reference: Any, image: Image) -> Found:
    """Boxes [K, 4] between the edges of pixels and clipped, scores [K], landmarks [K, 5, 2]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = reference(keep_all=True, select_largest=False, min_face_size=21).detect(
            image.pixels.copy(), landmarks=True
        )
    boxes, scores, points = (
        np.array([list(row) for row in found[0]], float),
        found[1].astype(float),
        found[2],
    )
    boxes[:, :2] -= 1  # it counts pixels from one, the last included
    boxes = np.clip(boxes, 0, [image.width, image.height] * 2)
    return boxes, scores, np.array([np.array(row, float) for row in points])


@needs_shared
@pytest.mark.parametrize("path", COMPARED)
def test_it_finds_the_faces_that_the_original_finds(
    reference: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a canvas of the picture's size and a pyramid resampled as there, to a pixel.

    The original resamples by the mean of all pixels that a pixel touches. Its choice among near-equal
    candidates hangs on such details, so they are made the same here; the next test leaves them as served.
    It stretches what it cuts at the picture's edge, where we add grey: so there is grey around for both.
    """
    monkeypatch.setattr(pyramid, "BORDER", 0)
    pixels = np.pad(picture(path).pixels, ((80, 80), (80, 80), (0, 0)), constant_values=GREY)
    image = Image(pixels, pixels.shape[1], pixels.shape[0])
    pipeline = mtcnn_with(
        height=image.height,
        width=image.width,
        min_face=21.0,
        thresholds=[0.6, 0.7, 0.7],
        candidates=[10**6, 10**6, 10**6],
    )
    prepared = pipeline.preprocess(image)
    mosaic = torch.from_numpy(prepared.inputs[0]).float()
    planes = torch.from_numpy(image.pixels).permute(2, 0, 1).float()
    for tile in pipeline.pyramid.tiles:
        part = tile.of(mosaic.numpy())
        part[:] = F.adaptive_avg_pool2d(planes, part.shape[:2]).permute(1, 2, 0).numpy()
    (found,) = pipeline.postprocess(eager(pipeline.module, mosaic[None].numpy()), [prepared.context])
    boxes, scores, landmarks = reference_faces(reference, image)
    assert len(found.items) == len(boxes)
    for box, score, points in zip(boxes, scores, landmarks, strict=True):
        nearest = min(found.items, key=lambda face: np.abs(np.array(face.box) - box).max())
        assert np.abs(np.array(nearest.box) - box).max() < 5
        assert np.abs(np.array(nearest.landmarks) - points).max() < 3
        assert nearest.score == pytest.approx(score, abs=0.01)


@needs_shared
@pytest.mark.parametrize("path", COMPARED)
def test_as_it_is_served_it_finds_them_too(reference: Any, path: str) -> None:
    image = picture(path)
    found = portrait(path).faces
    boxes, scores, landmarks = reference_faces(reference, image)
    sure = scores > 0.95
    assert len(found.items) == sure.sum()
    for box, points in zip(boxes[sure], landmarks[sure], strict=True):
        nearest = min(found.items, key=lambda face: np.abs(np.array(face.box) - box).max())
        side = float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))
        assert np.abs(np.array(nearest.box) - box).max() < 0.12 * side
        assert np.linalg.norm(np.array(nearest.landmarks) - points, axis=1).mean() < 0.05 * side
