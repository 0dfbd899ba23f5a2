"""Known boxes written in each head's layout come back, through a network and a letterbox."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.detection.result import Detections, DetectOptions
from models.errors import WeightsError
from models.exported.heads import HEADS
from models.image import Image
from models.pipeline import Kind, eager
from tests.models.exported.files import Constant, export, exported

HEIGHT, WIDTH = 96, 128
LABELS = ["cat", "dog", "bird"]
# on the input, where each way to resize shows the image: x1, y1, x2, y2, class, score
TRUTH = [
    (34.0, 24.0, 60.0, 70.0, 1, 0.9),
    (36.0, 10.0, 62.0, 30.0, 2, 0.6),
    (35.0, 25.0, 61.0, 69.0, 0, 0.5),
]

Encoder = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]


def rows(boxes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes xyxy [boxes, 4], class scores [boxes, 3] and their places: the truth among others of none."""
    xyxy = torch.tensor([[1.0, 1.0, 3.0, 3.0]]).repeat(boxes, 1)
    scores = torch.zeros(boxes, len(LABELS))
    places = torch.tensor([7, 101, 200])[: len(TRUTH)]
    for place, (x1, y1, x2, y2, kind, score) in zip(places.tolist(), TRUTH, strict=True):
        xyxy[place] = torch.tensor([x1, y1, x2, y2])
        scores[place, kind] = score
    return xyxy, scores, places


def centres(xyxy: Tensor) -> Tensor:
    return torch.cat(((xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]), 1)


def unit() -> Tensor:
    return torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])


def logit(scores: Tensor) -> Tensor:
    return torch.logit(scores, eps=1e-6)


def yolov5(xyxy: Tensor, scores: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    objectness = torch.full((len(xyxy), 1), 0.8)
    return (torch.cat((centres(xyxy), objectness, scores / 0.8), 1),)


def yolov8(xyxy: Tensor, scores: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    return (torch.cat((centres(xyxy), scores), 1).T.contiguous(),)


def end2end(xyxy: Tensor, scores: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    best = scores.max(1)
    return (torch.cat((xyxy, best.values[:, None], best.indices[:, None].float()), 1),)


def yolox(xyxy: Tensor, scores: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    cells = []
    for stride in (8, 16, 32):
        for y in range(HEIGHT // stride):
            cells += [(x, y, stride) for x in range(WIDTH // stride)]
    grid = torch.tensor(cells, dtype=torch.float32)
    whole = centres(xyxy)
    offsets = whole[:, :2] / grid[:, 2:] - grid[:, :2]
    sizes = (whole[:, 2:] / grid[:, 2:]).log()
    return (torch.cat((offsets, sizes, torch.ones(len(xyxy), 1), scores), 1),)


def ssd(xyxy: Tensor, scores: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    background = 1 - scores.sum(1, keepdim=True)
    return torch.cat((background, scores), 1), xyxy / unit()  # scores first: told apart by their shapes


def detr(xyxy: Tensor, scores: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    nothing = 1 - scores.sum(1, keepdim=True)
    return torch.cat((scores, nothing), 1).clamp(min=1e-9).log(), centres(xyxy) / unit()


def rtdetr(xyxy: Tensor, scores: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    return logit(scores), centres(xyxy) / unit()


def ultralytics_rtdetr(xyxy: Tensor, scores: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    return (torch.cat((centres(xyxy) / unit(), scores), 1),)


CASES: list[tuple[str, Encoder, dict[str, object]]] = [
    ("yolov5", yolov5, {}),
    ("yolov7", yolov5, {}),
    ("yolov8", yolov8, {}),
    ("yolov10", end2end, {}),
    ("yolo26", end2end, {}),
    ("end2end", end2end, {}),
    ("yolox", yolox, {}),
    # with three classes and a background both outputs have four columns: the catalogue says which is which
    ("ssd", ssd, {"outputs": ["1", "0"]}),
    ("detr", detr, {"outputs": ["1", "0"]}),
    ("rtdetr", rtdetr, {}),
    ("rtdetr", ultralytics_rtdetr, {}),
]
BOXES = sum((HEIGHT // stride) * (WIDTH // stride) for stride in (8, 16, 32))


def test_every_head_is_tried() -> None:
    assert {name for name, _, _ in CASES} == set(HEADS)


@pytest.mark.parametrize(
    ("head", "encode", "options"), CASES, ids=[f"{name}-{one.__name__}" for name, one, _ in CASES]
)
@pytest.mark.parametrize("resize", ["letterbox", "letterbox-corner", "stretch", "crop"])
def test_known_boxes_come_back(
    head: str, encode: Encoder, options: dict[str, object], resize: str, tmp_path: Path
) -> None:
    network = Constant(*encode(*rows(BOXES)))
    path = export(network, tmp_path / "known.pt", (3, HEIGHT, WIDTH))
    options = {"size": [HEIGHT, WIDTH], "labels": LABELS, "head": head, "resize": resize} | options
    pipeline = exported(Kind.DETECT, path, **options)
    image = Image(np.zeros((300, 200, 3), np.uint8), 400, 600)  # the decoder gave it at half its size
    prepared = pipeline.preprocess(image)
    assert prepared.inputs[0].shape == (HEIGHT, WIDTH, 3)
    (result,) = found(pipeline, prepared.inputs[0], prepared.context)
    assert (result.width, result.height) == (400, 600)
    assert [(item.label, pytest.approx(item.score, abs=1e-4)) for item in result.items] == [
        (LABELS[kind], score) for *_, kind, score in TRUTH
    ]
    for item, (x1, y1, x2, y2, _, _) in zip(result.items, TRUTH, strict=True):
        assert item.box == pytest.approx(undone(resize, (x1, y1, x2, y2)), abs=0.01)


def found(pipeline: object, pixels: np.ndarray, context: object) -> list[Detections]:
    outputs = eager(pipeline.module, pixels[None])  # type: ignore[attr-defined]
    results: list[Detections] = pipeline.postprocess(outputs, [context])  # type: ignore[attr-defined]
    return results


def undone(resize: str, box: tuple[float, ...]) -> list[float]:
    """From the input of 96 x 128 to an original of 400 x 600, by hand."""
    scale_x, scale_y, left, top = WIDTH / 400, HEIGHT / 600, 0.0, 0.0
    if resize.startswith("letterbox"):
        scale_x = scale_y = HEIGHT / 600  # 0.16: 64 x 96 pixels
        left = 32.0 if resize == "letterbox" else 0.0
    elif resize == "crop":  # the width decides: 400 x 300 in the middle
        scale_x = scale_y = WIDTH / 400
        top = -150 * scale_y
    x1, y1, x2, y2 = box
    points = ((x1 - left) / scale_x, (y1 - top) / scale_y, (x2 - left) / scale_x, (y2 - top) / scale_y)
    limits = (400, 600, 400, 600)
    return [min(max(point, 0), limit) for point, limit in zip(points, limits, strict=True)]


def test_duplicates_are_suppressed_where_the_head_leaves_them(tmp_path: Path) -> None:
    xyxy = torch.tensor([[10.0, 10.0, 50.0, 50.0], [11.0, 10.0, 51.0, 50.0]])
    scores = torch.tensor([[0.0, 0.9, 0.0], [0.0, 0.8, 0.0]])
    places = torch.tensor([0])
    image = Image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), WIDTH, HEIGHT)
    for head, encode, count in (("yolov8", yolov8, 1), ("end2end", end2end, 2)):
        path = export(Constant(*encode(xyxy, scores, places)), tmp_path / f"{head}.pt", (3, HEIGHT, WIDTH))
        pipeline = exported(Kind.DETECT, path, size=[HEIGHT, WIDTH], labels=LABELS, head=head)
        prepared = pipeline.preprocess(image)
        assert len(found(pipeline, prepared.inputs[0], prepared.context)[0].items) == count
        # a request's own limit holds for either
        prepared = pipeline.preprocess(image, DetectOptions(iou_threshold=0.5))
        assert len(found(pipeline, prepared.inputs[0], prepared.context)[0].items) == 1


@pytest.mark.parametrize(
    ("head", "shape", "labels", "message"),
    [
        (
            "yolov8",
            (84, 50),
            3,
            r"yolov8, which with 3 labels expects one output \[N, 7, boxes\].*\[N, 84, 50\]",
        ),
        ("yolov8", (50, 7), 3, r"expects one output \[N, 7, boxes\]"),
        ("yolov5", (50, 7), 3, r"expects one output \[N, boxes, 8\]"),
        ("end2end", (50, 7), 3, r"expects one output \[N, boxes, 6\]"),
        ("yolox", (50, 8), 3, r"expects one output \[N, 252, 8\]"),
        ("detr", (50, 8), 3, r"expects two outputs, \[N, boxes, 4\] and \[N, boxes, 4\]"),
        ("rtdetr", (50, 8), 3, r"or one \[N, boxes, 7\]"),
        ("yolov9", (50, 8), 3, r"options\.head is 'yolov9', none of yolov5, yolov7, yolov8"),
        ("", (50, 8), 3, r"options\.head is ''"),
    ],
)
def test_what_does_not_fit_is_told(
    head: str, shape: tuple[int, ...], labels: int, message: str, tmp_path: Path
) -> None:
    path = export(Constant(torch.zeros(shape)), tmp_path / "x.pt", (3, HEIGHT, WIDTH))
    with pytest.raises(WeightsError, match=message):
        exported(Kind.DETECT, path, size=[HEIGHT, WIDTH], labels=LABELS[:labels], head=head)


def test_outputs_are_told_apart_by_name(tmp_path: Path) -> None:
    from tests.models.exported.files import onnx

    scores, boxes = detr(*rows(300))
    for names in (("logits", "pred_boxes"), ("labels", "dets")):
        path = tmp_path / f"{names[1]}.onnx"
        onnx(Constant(scores, boxes).eval(), path, torch.zeros(2, 3, HEIGHT, WIDTH), free=True, names=names)
        pipeline = exported(Kind.DETECT, path, labels=LABELS, head="detr")
        assert pipeline._reads == (1, 0)


def test_other_ways_to_write_an_ssd(tmp_path: Path) -> None:
    xyxy, scores, _ = rows(300)
    path = export(Constant(xyxy[:, [1, 0, 3, 2]], logit(scores)), tmp_path / "x.pt", (3, HEIGHT, WIDTH))
    options = {"corners": "yxyx", "boxes": "pixels", "background": "none", "activation": "sigmoid"}
    pipeline = exported(Kind.DETECT, path, size=[HEIGHT, WIDTH], labels=LABELS, head="ssd", **options)
    image = Image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), WIDTH, HEIGHT)
    prepared = pipeline.preprocess(image)
    (result,) = found(pipeline, prepared.inputs[0], prepared.context)
    assert [item.box for item in result.items] == [pytest.approx(row[:4], abs=1e-3) for row in TRUTH]


def test_a_box_after_suppression_has_one_class_at_any_threshold(tmp_path: Path) -> None:
    out = torch.tensor([[10.0, 10.0, 50.0, 50.0, 0.9, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])  # and padding
    path = export(Constant(out), tmp_path / "x.pt", (3, HEIGHT, WIDTH))
    pipeline = exported(Kind.DETECT, path, size=[HEIGHT, WIDTH], labels=LABELS, head="end2end")
    image = Image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), WIDTH, HEIGHT)
    prepared = pipeline.preprocess(image, DetectOptions(score_threshold=0))
    (result,) = found(pipeline, prepared.inputs[0], prepared.context)
    assert [item.label for item in result.items] == ["dog"]


def test_a_class_that_is_none_of_the_labels_is_left_out(tmp_path: Path) -> None:
    out = torch.tensor([[10.0, 10.0, 50.0, 50.0, 0.9, 7.0], [10.0, 10.0, 50.0, 50.0, 0.9, -1.0]])
    path = export(Constant(out), tmp_path / "x.pt", (3, HEIGHT, WIDTH))
    pipeline = exported(Kind.DETECT, path, size=[HEIGHT, WIDTH], labels=LABELS, head="end2end")
    prepared = pipeline.preprocess(Image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), WIDTH, HEIGHT))
    assert found(pipeline, prepared.inputs[0], prepared.context)[0].items == ()
