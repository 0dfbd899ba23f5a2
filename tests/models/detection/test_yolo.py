"""Our YOLO: its codec by hand, its file, and the detection pipeline around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from models import boxes as box_ops
from models.builders.yolo import build
from models.detection.pipeline import DetectorOptions, DetectorPipeline
from models.detection.result import Detections, DetectOptions
from models.detection.yolo import Detector, Yolo, load, save
from models.detection.yolo_config import STRIDES, YoloConfig
from models.errors import ParameterInvalid, WeightsError
from models.image import Image, decode
from models.ir.convert import Port, convert
from models.ir.precision import compile_network
from models.pipeline import Card, Kind, eager
from models.weights import Catalogue, Entry, File, Store
from tests.paths import SHARED, needs_shared

ANCHORS = (((5.0, 8.0), (9.0, 12.0)), ((20.0, 20.0), (30.0, 40.0)), ((60.0, 50.0), (90.0, 90.0)))


def network(labels: tuple[str, ...] = ("person",), seed: int = 0) -> Yolo:
    torch.manual_seed(seed)
    return Yolo(YoloConfig(labels, ANCHORS, size=64, channels=16)).eval()


def entry() -> Entry:
    return Entry(
        name="small",
        task=Kind.DETECT,
        builder="yolo",
        license="Apache-2.0",
        files={"weights": File("file", "unused", "ab" * 32)},
        options={"score_threshold": 0.1},
    )


@pytest.mark.parametrize("labels", [("person",), ("cat", "dog", "owl")])
def test_shapes(labels: tuple[str, ...]) -> None:
    detector = Detector(network(labels)).eval()
    with torch.no_grad():
        boxes, scores = detector(torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8))
    count = sum(2 * (64 // stride) * (96 // stride) for stride in STRIDES)
    assert boxes.shape == (2, count, 4)
    assert scores.shape == (2, count, len(labels))
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (boxes[..., 2:] >= boxes[..., :2]).all()


def test_decoding_by_hand() -> None:
    yolo = network(("cat", "dog"))
    maps = [torch.full((1, 64 // stride, 64 // stride, 2, 7), -9.0) for stride in STRIDES]
    maps[1][0, 2, 3, 1] = torch.tensor([0.0, 1.0, 0.0, -1.0, 2.0, 0.5, -0.5])
    boxes, scores = yolo.decode(maps)
    place = 8 * 8 * 2 + (2 * 4 + 3) * 2 + 1

    def sigmoid(value: float) -> float:
        return float(1 / (1 + np.exp(-value)))

    x, y = (2 * 0.5 - 0.5 + 3) * 16, (2 * sigmoid(1) - 0.5 + 2) * 16
    w, h = (2 * 0.5) ** 2 * 30, (2 * sigmoid(-1)) ** 2 * 40
    expected = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    torch.testing.assert_close(boxes[0, place], expected)
    classes = torch.tensor([sigmoid(0.5), sigmoid(-0.5)]) * sigmoid(2)
    torch.testing.assert_close(scores[0, place], classes)
    assert scores[0].flatten().argmax().item() == place * 2


def test_converted_to_openvino_it_is_the_same_for_other_images_and_batches() -> None:
    detector = Detector(network()).eval()
    converted = compile_network(convert(detector, [Port((64, 64, 3), np.uint8)]), "float32", 1)
    for count in (1, 3):
        images = torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8)
        with torch.no_grad():
            expected = detector(images)
        found = converted([images.numpy()])
        for index, ours in enumerate(expected):
            np.testing.assert_allclose(found[index], ours, rtol=1e-3, atol=1e-3)


def test_a_batch_gives_what_each_picture_gives_alone() -> None:
    detector = Detector(network()).eval()
    images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        together = detector(images)
        for index in range(3):
            for whole, alone in zip(together, detector(images[index : index + 1]), strict=True):
                torch.testing.assert_close(whole[index], alone[0], rtol=1e-3, atol=1e-3)


def test_the_file_keeps_everything_in_half_precision(tmp_path: Path) -> None:
    yolo = network(("cat", "dog"))
    save(yolo, tmp_path / "yolo.safetensors")
    again = load(tmp_path / "yolo.safetensors")
    assert again.config == yolo.config
    assert not again.training
    for name, tensor in yolo.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.half().float()), name


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "yolo.safetensors"
    path.write_bytes(b"what is this")
    with pytest.raises(WeightsError, match=r"yolo\.safetensors"):
        load(path)
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"yolo\.safetensors"):
        load(path)
    save_file({"weight": torch.zeros(1)}, path, metadata={"config": network().config.dump()})
    with pytest.raises(WeightsError, match="does not fit"):
        load(path)


@pytest.mark.parametrize(
    ("labels", "anchors", "size"), [((), ANCHORS, 64), (("a",), ANCHORS[:2], 64), (("a",), ANCHORS, 50)]
)
def test_a_bad_configuration_is_refused(labels: tuple[str, ...], anchors: object, size: int) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        YoloConfig(labels, anchors, size=size)  # type: ignore[arg-type]


class Fixed(nn.Module):
    """A detector that always finds the same."""

    def __init__(self, boxes: list[list[float]], scores: list[list[float]]) -> None:
        super().__init__()
        self.boxes, self.scores = torch.tensor(boxes), torch.tensor(scores)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.boxes.expand(len(images), -1, -1), self.scores.expand(len(images), -1, -1)


def run(pipeline: DetectorPipeline, *requests: tuple[Image, DetectOptions | None]) -> list[Detections]:
    items = [pipeline.preprocess(image, options) for image, options in requests]
    outputs = eager(pipeline.module, np.stack([item.inputs[0] for item in items]))
    return pipeline.postprocess(outputs, [item.context for item in items])


def blank(width: int, height: int) -> Image:
    return Image(np.full((height, width, 3), 90, np.uint8), width, height)


@pytest.fixture
def fixed() -> DetectorPipeline:
    card = Card("fixed", Kind.DETECT, "none", "00", labels=("cat", "dog"), input=(100, 100))
    module = Fixed(
        [[10, 40, 50, 60], [12, 40, 50, 60], [60, 30, 90, 70], [20, 0, 40, 20]],
        [[0.9, 0.3], [0.8, 0.1], [0.2, 0.6], [0.7, 0.69]],
    )
    return DetectorPipeline(card, lambda: module, DetectorOptions(0.5, 0.6))


def test_boxes_come_back_to_the_original(fixed: DetectorPipeline) -> None:
    # 200 x 100 on 100 x 100: half the size, 25 pixels of margin above; the last box lies in the margin
    (found,) = run(fixed, (blank(200, 100), None))
    assert (found.width, found.height) == (200, 100)
    assert [(item.label, item.class_id, round(item.score, 3)) for item in found.items] == [
        ("cat", 0, 0.9),
        ("dog", 1, 0.6),
    ]
    assert found.items[0].box == (20.0, 30.0, 100.0, 70.0)
    assert found.items[1].box == (120.0, 10.0, 180.0, 90.0)


def test_every_request_of_a_batch_has_its_own_options(fixed: DetectorPipeline) -> None:
    square = blank(100, 100)
    answers = run(
        fixed,
        (square, None),
        (square, DetectOptions(score_threshold=0.25)),
        (square, DetectOptions(iou_threshold=1.0)),
        (square, DetectOptions(max_detections=1)),
        (square, DetectOptions(classes=("dog",))),
        (square, DetectOptions(score_threshold=1.0)),
    )
    found = [[(item.label, round(item.score, 2)) for item in answer.items] for answer in answers]
    assert found[0] == [("cat", 0.9), ("cat", 0.7), ("dog", 0.69), ("dog", 0.6)]
    assert found[1] == [*found[0], ("dog", 0.3)]
    assert found[2] == [("cat", 0.9), ("cat", 0.8), *found[0][1:]]
    assert found[3] == [("cat", 0.9)]
    assert found[4] == [("dog", 0.69), ("dog", 0.6)]
    assert found[5] == []


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("score_threshold", 1.1),
        ("score_threshold", float("nan")),
        ("iou_threshold", -0.1),
        ("max_detections", 0),
        ("max_detections", 1001),
        ("classes", ()),
        ("classes", ("cat", "cow", "hen")),
    ],
)
def test_bad_options_are_named(fixed: DetectorPipeline, parameter: str, value: object) -> None:
    with pytest.raises(ParameterInvalid) as caught:
        fixed.preprocess(blank(9, 9), DetectOptions.of({parameter: value}))
    assert caught.value.parameter == parameter
    if value == ("cat", "cow", "hen"):
        assert "cow, hen" in str(caught.value)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (8000, 40), (3, 5000), (640, 480)])
def test_any_shape_of_picture_works(tmp_path: Path, width: int, height: int) -> None:
    save(network(), tmp_path / "yolo.safetensors")
    pipeline = build(entry(), {"weights": tmp_path / "yolo.safetensors"})
    assert (pipeline.defaults.score_threshold, pipeline.card.input) == (0.1, (64, 64))
    options = DetectOptions(score_threshold=0.0, max_detections=1000)
    (found,) = run(pipeline, (blank(width, height), options))
    assert (found.width, found.height) == (width, height)
    for item in found.items:
        x1, y1, x2, y2 = item.box
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height


@needs_shared
def test_the_committed_weights_find_people() -> None:
    catalogue = Catalogue()
    pipeline = build(catalogue["yolo-person"], Store().files(catalogue["yolo-person"]))
    names = ("000000000785", "000000000872", "000000000885")
    folder = SHARED / "data" / "coco-person"
    images = [decode((folder / "images" / f"{name}.jpg").read_bytes()) for name in names]
    for answer, name in zip(run(pipeline, *((image, None) for image in images)), names, strict=True):
        rows = np.loadtxt(folder / "labels" / f"{name}.txt", ndmin=2)
        largest = torch.from_numpy(rows[rows[:, 3:].prod(axis=1).argmax(), 1:]).float()
        true = box_convert(largest * torch.tensor([answer.width, answer.height] * 2), "cxcywh", "xyxy")
        found = torch.tensor([item.box for item in answer.items]).view(-1, 4)
        assert box_ops.iou(found.numpy(), true[None].numpy()).max() > 0.6, name
        assert all(item.label == "person" for item in answer.items)


def test_boxes_are_decoded_in_float32_whatever_the_network_computes_in() -> None:
    """At 400 pixels a bfloat16 tells every other pixel at best."""
    yolo = network()
    sides = [yolo.config.size // stride for stride in STRIDES]
    maps = [torch.randn(1, side, side, len(yolo.config.anchors[0]), yolo.outputs) for side in sides]
    halves = [map_.bfloat16() for map_ in maps]
    boxes, scores = yolo.decode(halves)
    expected, likely = yolo.decode([map_.float() for map_ in halves])
    assert boxes.dtype == scores.dtype == torch.float32
    torch.testing.assert_close(boxes, expected, rtol=0, atol=0)
    torch.testing.assert_close(scores, likely, rtol=0, atol=0)
