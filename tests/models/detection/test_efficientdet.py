"""EfficientDet-Lite0 against the TensorFlow Lite runtime, its decoding by hand, and its pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models import registry
from models.backbones.efficientnet_lite import MEAN, SCALE
from models.boxes import CANDIDATES
from models.detection.efficientdet import (
    Detector,
    EfficientDet,
    anchor_shapes,
    convert,
    decode,
    make_anchors,
    read_tflite,
)
from models.detection.pipeline import DetectorPipeline
from models.detection.result import Detections, DetectOptions
from models.errors import WeightsError
from models.image import Image
from models.image import decode as decode_image
from models.ir.network import Networks
from models.ir.precision import instructions, supported
from models.pipeline import eager
from models.weights import Store, sha256_of, standard_catalogue
from tests.paths import ROOT, SHARED, needs_shared

ENTRY = standard_catalogue()["efficientdet-lite0"]
SAMPLES = sorted((ROOT / "service" / "web" / "ui").glob("sample-*.jpg"))


@pytest.fixture(scope="module")
def published() -> Path:
    return Store().originals(ENTRY)["weights"]


@pytest.fixture(scope="module")
def network(published: Path) -> EfficientDet:
    return read_tflite(published)


@pytest.fixture(scope="module")
def pipeline() -> DetectorPipeline:
    found = registry.build_entry(ENTRY, Store().files(ENTRY))
    assert isinstance(found, DetectorPipeline)
    return found


def random_image(side: int, seed: int = 0) -> Tensor:
    """Noise in blocks of several sizes: edges at every scale."""
    random = torch.Generator().manual_seed(seed)
    layers = [
        torch.rand(1, 3, side // block, side // block, generator=random)
        .repeat_interleave(block, 2)
        .repeat_interleave(block, 3)
        for block in (1, 4, 16, 64)
    ]
    return (255 * torch.stack(layers).mean(0)).byte().permute(0, 2, 3, 1)


def reference(published: Path, images: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The heads' outputs of the TensorFlow Lite runtime: ``box0`` and ``class0`` are the finest level's."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        str(published),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    found = {}
    for head, channels in (("box", 36), ("class", 810)):
        maps = [
            tensor
            for tensor in interpreter.get_tensor_details()
            if f"{head}-predict" in tensor["name"]
            and tuple(tensor["shape"][3:]) == (channels,)
            and tensor["shape"][0] == 1
        ]
        for level, tensor in enumerate(sorted(maps, key=lambda tensor: -tensor["shape"][1])):
            found[f"{head}{level}"] = interpreter.get_tensor(tensor["index"])
    return found


def test_boxes_and_logits_are_those_of_the_tensorflow_lite_runtime(
    published: Path, network: EfficientDet
) -> None:
    images = random_image(320)
    expected = reference(published, images.numpy())
    with torch.no_grad():
        boxes, logits = network((images.permute(0, 3, 1, 2).float() - MEAN) / SCALE)
    assert len(expected) == len(boxes) + len(logits) == 10
    for level in range(5):
        for head, maps in (("box", boxes), ("class", logits)):
            ours = maps[level].permute(0, 2, 3, 1).numpy()
            np.testing.assert_allclose(ours, expected[f"{head}{level}"], rtol=0, atol=1e-4)


def test_the_conversion_is_the_one_that_the_catalogue_knows(published: Path, tmp_path: Path) -> None:
    convert(published, tmp_path / "converted.safetensors")
    assert sha256_of(tmp_path / "converted.safetensors") == ENTRY.files["weights"].converted


def test_another_network_is_refused(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.detection import efficientdet

    layers = efficientdet.read_convolutions(published)
    for wrong in (layers[:-1], [*layers, layers[-1]], [layers[1], *layers[1:]]):
        monkeypatch.setattr(efficientdet, "read_convolutions", lambda path, wrong=wrong: wrong)
        with pytest.raises(WeightsError, match="EfficientDet"):
            read_tflite(published)


def test_anchors_by_hand() -> None:
    grids = [(24, 48), (12, 24), (6, 12), (3, 6), (2, 3)]
    anchors = make_anchors(192, 384, grids, anchor_shapes())
    assert anchors.shape == (sum(rows * columns for rows, columns in grids) * 9, 4)
    side = 24 * 2 ** (1 / 3)
    expected = [
        [12, 4, 24, 24],
        [12, 4, 24 * 2**0.5, 24 / 2**0.5],
        [12, 4, 24 / 2**0.5, 24 * 2**0.5],
        [12, 4, side, side],
    ]
    torch.testing.assert_close(anchors[9:13], torch.tensor(expected))
    # two cells of the coarsest level share 192 pixels: it is of 96 x 128, and its anchors are too
    torch.testing.assert_close(anchors[-9], torch.tensor([2.5 * 128, 1.5 * 96, 3 * 128, 3 * 96]))


def test_decoding_by_hand() -> None:
    anchor = torch.tensor([100.0, 50.0, 40.0, 20.0])
    found = decode(torch.tensor([0.5, -0.25, np.log(2), np.log(0.5)], dtype=torch.float32), anchor)
    torch.testing.assert_close(found, torch.tensor([80.0, 40.0, 100.0, 80.0]))
    assert decode(torch.full((4,), 1e9), anchor).isfinite().all()


def test_candidates_are_the_anchors_of_the_highest_scores(network: EfficientDet) -> None:
    images = random_image(192, seed=1)
    count = 9 * (24**2 + 12**2 + 6**2 + 3**2 + 2**2)
    with torch.no_grad():
        every_box, every_score = Detector(network, candidates=count)(images)
        boxes, scores = Detector(network, candidates=50)(images)
    assert (boxes.shape, scores.shape) == ((1, 50, 4), (1, 50, 90))
    order = every_score[0].amax(1).argsort(descending=True)[:50]
    torch.testing.assert_close(scores[0].amax(1), every_score[0].amax(1)[order])
    torch.testing.assert_close(boxes[0, 0], every_box[0, order[0]])


def test_a_batch_gives_what_each_image_gives_alone(network: EfficientDet) -> None:
    detector = Detector(network)
    images = torch.cat([random_image(256, seed)[:, :, :192] for seed in range(3)])
    with torch.no_grad():
        together = detector(images)
        for index in range(3):
            for whole, alone in zip(together, detector(images[index : index + 1]), strict=True):
                torch.testing.assert_close(whole[index], alone[0], rtol=1e-3, atol=1e-3)


def test_one_conversion_to_openvino_serves_wide_and_high_canvases(pipeline: DetectorPipeline) -> None:
    networks = Networks(pipeline, "float32", threads=1)
    for height, width, _ in pipeline.shapes[-2:]:
        pixels = random_image(640)[:, :height, :width].contiguous()
        with torch.no_grad():
            expected = pipeline.module(pixels)
        found = networks.run([pixels.numpy()])
        for ours, theirs in zip(found, expected, strict=True):
            # the order of candidates of nearly equal scores may differ
            wanted = theirs.numpy()
            np.testing.assert_allclose(np.sort(ours, 1), np.sort(wanted, 1), rtol=1e-3, atol=2e-3)


@pytest.fixture(scope="module")
def int8(pipeline: DetectorPipeline) -> Networks:
    if "int8" not in supported(instructions()):
        pytest.skip("this processor has no VNNI, without which sums of int8 may overflow")
    return Networks(pipeline, "int8", 1, Store().networks)


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """The IoU of two boxes, xyxy."""
    sides = [max(0.0, min(one[i + 2], other[i + 2]) - max(one[i], other[i])) for i in (0, 1)]
    both = sides[0] * sides[1]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_in_int8_the_same_things_are_found(pipeline: DetectorPipeline, int8: Networks, path: Path) -> None:
    item = pipeline.preprocess(decode_image(path.read_bytes()), DetectOptions(score_threshold=0.3))
    canvas = item.inputs[0][None]
    expected, found = (
        pipeline.postprocess(outputs, [item.context])[0].items
        for outputs in (eager(pipeline.module, canvas), int8.run([canvas]))
    )
    main = [one for one in expected if one.score >= 0.5]
    assert main
    for one in main:
        (same,) = [other for other in found if overlap(one.box, other.box) > 0.8 and other.label == one.label]
        assert abs(same.score - one.score) < 0.05
        assert np.abs(np.subtract(same.box, one.box)).max() < 12  # of up to 600 pixels


def test_in_int8_a_batch_gives_what_each_image_gives_alone(
    pipeline: DetectorPipeline, int8: Networks
) -> None:
    for height, width, _ in pipeline.shapes:
        images = np.concatenate([random_image(640, seed)[:, :height, :width].numpy() for seed in range(3)])
        together = int8.run([images])
        for index in range(3):
            for whole, alone in zip(together, int8.run([images[index : index + 1]]), strict=True):
                np.testing.assert_array_equal(whole[index], alone[0])


@pytest.mark.parametrize(
    ("width", "height", "canvas"),
    [(500, 500, (448, 448)), (640, 480, "wide"), (480, 640, "high"), (1, 8000, "high")],
)
def test_an_image_lies_on_the_canvas_that_shows_it_largest(
    pipeline: DetectorPipeline, width: int, height: int, canvas: object
) -> None:
    square, wide, high = pipeline.canvases
    expected = {"wide": wide, "high": high}.get(str(canvas), square)
    item = pipeline.preprocess(Image(np.zeros((height, width, 3), np.uint8), width, height))
    assert item.inputs[0].shape == (*expected, 3)
    assert wide[1] > wide[0]
    assert high[0] > high[1]


def test_the_card_names_the_eighty_classes_of_coco(pipeline: DetectorPipeline) -> None:
    labels = pipeline.card.labels
    assert len(labels) == 80
    assert (labels[0], labels[16], labels[79]) == ("person", "dog", "toothbrush")
    assert {"hot dog", "traffic light", "potted plant"} < set(labels)
    assert "???" not in labels


@needs_shared
def test_the_labels_are_those_of_the_data(pipeline: DetectorPipeline) -> None:
    names = (SHARED / "data" / "coco80" / "coco.names").read_text().split("\n")
    assert list(pipeline.card.labels) == [name for name in names if name]


def detect(pipeline: DetectorPipeline, name: str, options: Mapping[str, Any]) -> Detections:
    image = decode_image((SHARED / "data" / "photos" / f"{name}.jpg").read_bytes())
    item = pipeline.preprocess(image, DetectOptions.of(options))
    outputs = eager(pipeline.module, item.inputs[0][None])
    return pipeline.postprocess(outputs, [item.context])[0]


@needs_shared
def test_names_of_classes_may_have_spaces_and_any_case(pipeline: DetectorPipeline) -> None:
    found = detect(pipeline, "dog", {"classes": "Traffic Light, DOG,hot  dog"})
    assert {item.label for item in found.items} == {"dog"}


def test_every_candidate_is_searched_for_the_wanted_classes(pipeline: DetectorPipeline) -> None:
    image = Image(random_image(448)[0].numpy(), 448, 448)
    item = pipeline.preprocess(
        image, DetectOptions(classes=("spoon",), score_threshold=0.0, max_detections=1000)
    )
    outputs = eager(pipeline.module, item.inputs[0][None])
    assert outputs[1].shape == (1, CANDIDATES, 80)
    (found,) = pipeline.postprocess(outputs, [item.context])
    assert found.items
    assert {item.label for item in found.items} == {"spoon"}


@pytest.mark.parametrize(
    ("size", "said"), [(450, "the nearest are 448 and 512"), (100, "192"), (1537, "1536"), (-64, "192")]
)
def test_a_canvas_that_is_no_multiple_of_64_is_refused_with_the_nearest(size: int, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        registry.build_entry(replace(ENTRY, options={"size": size}), Store().files(ENTRY))


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    with pytest.raises(WeightsError, match="2 labels"):
        registry.build_entry(ENTRY, {**Store().files(ENTRY), "labels": tmp_path / "labels.txt"})
