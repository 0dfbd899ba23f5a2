"""MTCNN: each step against a slow reference, and the pipeline as a server uses it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.errors import ParameterInvalid, WeightsError
from models.faces import search
from models.faces.mtcnn.candidates import Candidates, Crops, FaceContext, nms_over_min_area
from models.faces.mtcnn.networks import PNet
from models.faces.mtcnn.pipeline import MtcnnPipeline, build
from models.faces.mtcnn.pyramid import BORDER, GREY, Pyramid
from models.faces.result import Face, FaceOptions, Faces, LargeFaceOptions
from models.faces.verify import select_face
from models.image import Image, letterbox
from models.pipeline import RunStage, eager
from models.training.faces.offline import run
from models.weights import Catalogue, Entry
from tests.models.faces.portraits import detector, files, mtcnn_with, picture, portrait, portraits
from tests.paths import needs_shared


def faces_of(pipeline: MtcnnPipeline, images: list[Image]) -> list[Faces]:
    found = [item for item in run(pipeline, images) if isinstance(item, Faces)]
    assert len(found) == len(images)
    return found


def blank(height: int, width: int) -> Image:
    return Image(np.full((height, width, 3), 120, np.uint8), width, height)


# --- the pyramid ---


@settings(max_examples=40, deadline=None)
@given(st.integers(12, 300), st.integers(12, 300), st.floats(12, 40), st.floats(0.3, 0.9))
@example(264, 286, 16.0, 0.732421875)
def test_tiles_lie_apart_and_windows_lie_on_the_canvas(
    height: int, width: int, min_face: float, factor: float
) -> None:
    if min(height, width) < min_face:
        with pytest.raises(ValueError, match="holds no face"):
            Pyramid(height, width, min_face, factor)
        return
    pyramid = Pyramid(height, width, min_face, factor)
    covered = np.zeros((pyramid.height, pyramid.width), int)
    for tile in pyramid.tiles:
        assert tile.x % 2 == tile.y % 2 == 0
        covered[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] += 1
    assert covered.max() == 1
    assert covered.sum() == sum(tile.width * tile.height for tile in pyramid.tiles)
    used = pyramid.windows[pyramid.levels >= 0]
    assert ((used[:, 2:] - used[:, :2]) >= 11).all()
    # to a pixel of its size, and one of the canvas, the last window ends where the border does
    scales = 12 / min_face * factor ** pyramid.levels[pyramid.levels >= 0]
    assert (used[:, :2].min(1) >= -BORDER / scales - 1).all()
    assert (used[:, 2] <= width + (1 + BORDER) / scales + 1).all()
    assert pyramid.levels.max() == len(pyramid.tiles) - 1


def test_one_mosaic_gives_what_every_size_gives_alone() -> None:
    torch.manual_seed(0)
    network, pyramid = PNet().eval(), Pyramid(90, 130, 15.0, 0.709)
    canvas = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    mosaic = pyramid.mosaic(canvas)
    with torch.inference_mode():
        scores, shifts = network(torch.from_numpy(mosaic)[None])
        for level, tile in enumerate(pyramid.tiles):
            part = mosaic[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
            even = part[: tile.height // 2 * 2, : tile.width // 2 * 2]
            alone_scores, alone_shifts = network(torch.from_numpy(even.copy())[None])
            own = pyramid.levels == level
            torch.testing.assert_close(scores[0, own], alone_scores[0])
            torch.testing.assert_close(shifts[0][:, own], alone_shifts[0])


def test_a_pyramid_without_its_largest_sizes_is_the_same_of_the_others() -> None:
    canvas = np.random.default_rng(0).integers(0, 256, (160, 210, 3), dtype=np.uint8)
    every, few = Pyramid(160, 210, 13.0, 0.8), Pyramid(160, 210, 13.0, 0.8, skip=3)
    mosaics = every.mosaic(canvas), few.mosaic(canvas)
    assert mosaics[1].size < mosaics[0].size / 2
    assert len(few.tiles) == len(every.tiles) - 3
    for level, (tile, other) in enumerate(zip(few.tiles, every.tiles[3:], strict=True)):
        assert np.array_equal(tile.of(mosaics[1]), other.of(mosaics[0]))
        assert np.array_equal(few.windows[few.levels == level], every.windows[every.levels == level + 3])
    with pytest.raises(ValueError, match="holds no face"):
        Pyramid(160, 210, 13.0, 0.8, skip=len(every.tiles))


def test_a_size_of_the_pyramid_is_the_picture() -> None:
    rows, columns = np.mgrid[0:128, 0:96]
    canvas = np.stack((rows * 1.5, columns * 2, rows + columns), -1).astype(np.uint8)
    for tile in (pyramid := Pyramid(128, 96, 24.0, 0.709)).tiles:
        part = tile.of(pyramid.mosaic(canvas))
        area = F.adaptive_avg_pool2d(torch.from_numpy(canvas).permute(2, 0, 1).double(), part.shape[:2])
        assert np.abs(part - area.permute(1, 2, 0).numpy()).max() < 3


# --- candidates ---


def contexts(*sizes: tuple[int, int], canvas: int = 64) -> list[FaceContext]:
    rng = np.random.default_rng(0)
    made = []
    for height, width in sizes:
        image = Image(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), width, height)
        made.append(FaceContext(*letterbox(image, canvas, canvas, fill=GREY), FaceOptions()))
    return made


CORNER = st.floats(-20, 70)
BOXES = st.lists(st.tuples(CORNER, CORNER, st.floats(1, 80), st.integers(0, 2)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(BOXES, st.sampled_from([24, 48]))
def test_a_crop_is_the_mean_of_the_pixels_under_it(
    places: list[tuple[float, float, float, int]], side: int
) -> None:
    batch = contexts((64, 64), (64, 32), (20, 64))
    boxes = np.array([(x, y, x + size, y + size) for x, y, size, _ in places], np.float32)
    images = np.array([image for *_, image in places])
    crops = Crops(batch).cut(Candidates(boxes, np.ones(len(boxes), np.float32), images), side)
    assert crops.shape == (len(boxes), side, side, 3)
    assert crops.dtype == np.float32
    assert np.isfinite(crops).all()
    for crop, box, image in zip(crops, boxes, images, strict=True):
        shown = batch[image].geometry
        low = np.array([shown.pad_x, shown.pad_y])
        high = low + np.array([shown.width * shown.scale_x, shown.height * shown.scale_y]).round()
        (x1, y1), (x2, y2) = np.floor(box).reshape(2, 2).astype(int).tolist()
        x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
        (left, top), (right, bottom) = low.astype(int).tolist(), high.astype(int).tolist()
        canvas = np.full((400, 400, 3), GREY, np.uint8)  # the picture, with grey all around
        canvas[100 + top : 100 + bottom, 100 + left : 100 + right] = batch[image].canvas[
            top:bottom, left:right
        ]
        part = torch.from_numpy(canvas[100 + y1 : 100 + y2, 100 + x1 : 100 + x2]).permute(2, 0, 1).float()
        expected = F.adaptive_avg_pool2d(part, side).permute(1, 2, 0)
        np.testing.assert_allclose(crop, expected, atol=1e-3, rtol=1e-4)


def slow_nms_over_min_area(boxes: list[list[float]], scores: list[float], images: list[int]) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        a = boxes[index]
        for other in kept:
            b = boxes[other]
            wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
            high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
            if images[index] == images[other] and wide * high / smaller > 0.7:
                break
        else:
            kept.append(index)
    return kept


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 25))
def test_faces_inside_of_faces_go_as_in_a_slow_reference(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 40, (count, 2)), rng.uniform(5, 60, (count, 2))
    boxes = np.concatenate((corner, corner + size), 1)
    scores, images = rng.permutation(count) / 30, rng.integers(0, 2, count)
    kept = nms_over_min_area(Candidates(boxes, scores, images), 0.7)
    assert kept.tolist() == slow_nms_over_min_area(boxes.tolist(), scores.tolist(), images.tolist())


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(0, 3)), max_size=30),
    st.lists(st.integers(0, 6), min_size=4, max_size=4),
)
def test_each_picture_keeps_its_best(rows: list[tuple[float, int]], limits: list[int]) -> None:
    scores, images = np.array([s for s, _ in rows], np.float32), np.array([i for _, i in rows], np.int64)
    kept = Candidates(np.zeros((len(rows), 4), np.float32), scores, images).best(limits, 4).tolist()
    expected = []
    for image, limit in enumerate(limits):
        own = [index for index, (_, owner) in enumerate(rows) if owner == image]
        expected += sorted(own, key=lambda index: -rows[index][0])[:limit]
    assert kept == expected


# --- the pipeline ---


def close(a: Face, b: Face) -> bool:
    return bool(
        np.allclose(a.box, b.box, atol=0.5)
        and np.allclose(a.landmarks, b.landmarks, atol=0.5)
        and abs(a.score - b.score) < 1e-3
    )


@needs_shared
def test_a_picture_of_one_person_has_one_face() -> None:
    for _, path in portraits():
        shown = portrait(path)
        assert len(shown.faces.items) == 1, path
        x1, y1, x2, y2 = shown.faces.items[0].box
        assert 0 <= x1 < x2 <= shown.image.width
        assert 0 <= y1 < y2 <= shown.image.height


@needs_shared
def test_a_request_does_not_depend_on_its_batchmates() -> None:
    paths = ["groups/two_people.jpg", "obama/3.jpg"]
    together = faces_of(detector(), [picture(paths[0]), blank(40, 600), picture(paths[1])])
    assert together[1] == Faces(600, 40, (), pytest.approx(600 * detector().smallest_face))
    for path, found in zip(paths, (together[0], together[2]), strict=True):
        alone = portrait(path).faces
        assert len(found.items) == len(alone.items)
        assert all(close(a, b) for a, b in zip(found.items, alone.items, strict=True))


@needs_shared
def test_every_request_has_its_own_options() -> None:
    pipeline, image = detector(), picture("groups/two_people.jpg")
    asked = [
        None,
        FaceOptions(max_faces=1),
        FaceOptions(min_size=1000),
        FaceOptions(score_threshold=1.0),
        FaceOptions(score_threshold=0.0),
    ]
    prepared = pipeline.preprocess(image)
    repeated = eager(pipeline.module, np.stack([prepared.inputs[0]] * len(asked)))
    context: FaceContext = prepared.context
    found = pipeline.postprocess(
        repeated, [dataclasses.replace(context, options=options or FaceOptions()) for options in asked]
    )
    counts = [len(one.items) for one in found]
    assert counts[:3] == [2, 1, 0]
    assert found[1].items == found[0].items[:1]
    assert counts[3] <= counts[0] <= counts[4]
    assert list(found[4].items) == sorted(found[4].items, key=lambda face: -face.score)
    # a batch that the executor padded: outputs without a context are left alone
    assert pipeline.postprocess(repeated, [context]) == found[:1]
    assert pipeline.postprocess(repeated, []) == []


@needs_shared
def test_a_look_for_large_faces_chooses_the_same_largest_one() -> None:
    pipeline, same = detector(), []
    for _, path in portraits():
        wanted = portrait(path)
        prepared = pipeline.preprocess(wanted.image, LargeFaceOptions())
        assert prepared.inputs[0].size < pipeline.preprocess(wanted.image).inputs[0].size / 3
        outputs = eager(pipeline.module, prepared.inputs[0][None])
        (found,) = pipeline.postprocess(outputs, [prepared.context])
        assert found.min_face == pipeline.large_face * max(wanted.image.width, wanted.image.height)
        if search.settled(found):
            face, other = select_face(found), select_face(wanted.faces)
            same.append(close(face, other))
            apart = np.abs(np.subtract(face.box, other.box)).max()
            assert apart < 0.1 * (face.box[2] - face.box[0]), path
    assert len(same) > 0.8 * len(portraits())
    assert np.mean(same) > 0.9  # of a small face another one of several boxes may be the best


def test_a_canvas_that_is_too_small_has_no_look_for_large_faces() -> None:
    pipeline = mtcnn_with(height=48, width=48)
    assert (len(pipeline.shapes), pipeline.large_face) == (1, 0)
    plain, large = (pipeline.preprocess(blank(50, 50), asked) for asked in (None, LargeFaceOptions()))
    assert np.array_equal(plain.inputs[0], large.inputs[0])


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (900, 2), (64, 64)])
def test_pictures_without_faces_are_answered(size: tuple[int, int]) -> None:
    (found,) = faces_of(detector(), [blank(*size)])
    assert (found.width, found.height, found.items) == (size[1], size[0], ())


def test_noise_is_bounded_work() -> None:
    pipeline = mtcnn_with(height=160, width=160, candidates=[300, 40, 8])
    seen: list[tuple[str, int]] = []

    def counted(name: str) -> RunStage:
        def run(crops: NDArray[Any]) -> tuple[NDArray[Any], ...]:
            seen.append((name, len(crops)))
            return pipeline.stages[name].run(crops)

        return run

    counting = pipeline.with_stages({name: counted(name) for name in pipeline.stages})
    rng = np.random.default_rng(0)
    noise = Image(rng.integers(0, 256, (160, 160, 3), dtype=np.uint8), 160, 160)
    places = len(pipeline.pyramid.levels)
    outputs = (rng.random((2, places), np.float32), rng.standard_normal((2, 4, places), np.float32))
    context = pipeline.preprocess(noise).context
    assert len(counting.postprocess(outputs, [context, context])) == 2
    limits = {"rnet": 80, "onet": 16}
    assert [name for name, _ in seen][:1] == ["rnet"]
    assert all(count <= limits[name] for name, count in seen)
    calls = len(seen)
    assert len(pipeline.postprocess(outputs, [context, context])) == 2  # itself as it was
    assert len(seen) == calls
    with pytest.raises(ValueError, match="no stages dnet"):
        pipeline.with_stages({"dnet": counted("dnet")})


def test_the_module_can_be_exported() -> None:
    pipeline = mtcnn_with(height=64, width=64)
    batch = torch.randint(0, 256, (2, *pipeline.shapes[0]), dtype=torch.uint8)
    exported = torch.export.export(pipeline.module, (batch,)).module()
    for ours, theirs in zip(pipeline.module(batch), exported(batch), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("parameter", "options"),
    [
        ("score_threshold", {"score_threshold": 1.5}),
        ("score_threshold", {"score_threshold": float("nan")}),
        ("min_size", {"min_size": -1.0}),
        ("min_size", {"min_size": float("inf")}),
        ("max_faces", {"max_faces": 0}),
    ],
)
def test_options_out_of_range_are_refused(parameter: str, options: dict[str, Any]) -> None:
    with pytest.raises(ParameterInvalid) as caught:
        FaceOptions.of(options)
    assert caught.value.parameter == parameter


def build_networks(entry: Entry, wrong: dict[str, Path]) -> None:
    pipeline = build(entry, wrong)
    assert pipeline.module
    assert all(stage.module for stage in pipeline.stages.values())


def test_wrong_files_and_settings_are_refused(tmp_path: Path) -> None:
    right, entry = files("mtcnn"), Catalogue()["mtcnn"]
    (tmp_path / "torn.pt").write_bytes(right["rnet"].read_bytes()[:1000])
    for wrong in (
        {**right, "rnet": right["pnet"]},
        {**right, "weights": tmp_path / "torn.pt"},
        {"weights": right["weights"]},
    ):
        with pytest.raises(WeightsError):
            build_networks(entry, wrong)
    for options in (
        {"min_face": 4},
        {"height": 10},
        {"candidates": [0, 1, 1]},
    ):
        with pytest.raises(WeightsError):
            mtcnn_with(**options)
