"""Faster R-CNN against torchvision's own inference with the same weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import detection

from models.detection.pipeline import DetectorPipeline
from models.detection.rcnn import CANDIDATES, build
from models.detection.result import DetectOptions
from models.errors import ParameterInvalid, WeightsError
from models.image import Image
from models.pipeline import Kind, Pipeline, eager
from models.registry import build_entry
from models.weights import Entry, File

MOBILENET = "fasterrcnn_mobilenet_v3_large_320_fpn"
SIZE = 256


def random_network(arch: str = MOBILENET, classes: int = 91) -> Any:
    """Random weights whose scores and boxes differ from proposal to proposal, as a trained network's do."""
    torch.manual_seed(0)
    network = getattr(detection, arch)(weights=None, weights_backbone=None, num_classes=classes).eval()
    network.rpn._post_nms_top_n["testing"] = 150  # what the smallest has
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        head, predictor = network.rpn.head, network.roi_heads.box_predictor
        _spread(network, {head.cls_logits: 2.0, head.bbox_pred: 0.3})
        _spread(network, {predictor.cls_score: 4.0, predictor.bbox_pred: 2.0})
    return network


def _spread(network: Any, layers: dict[nn.Conv2d | nn.Linear, float]) -> None:
    """Scales layers so that each of their outputs varies about 0 by so much over the places of a picture."""
    outputs: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}
    handles = [
        layer.register_forward_hook(lambda module, _inputs, output: outputs[module].append(output))
        for layer in layers
    ]
    theirs(network, pictures(1, 128)[0], 0.5, 0.5, 100)
    for handle in handles:
        handle.remove()
    for layer, deviation in layers.items():
        rows = [output.movedim(1, -1).reshape(-1, output.shape[1]) for output in outputs[layer]]
        std, mean = torch.std_mean(torch.cat(rows), dim=0)
        assert layer.bias is not None
        layer.bias.sub_(mean).mul_(deviation / std)
        layer.weight.mul_((deviation / std).view(-1, *[1] * (layer.weight.ndim - 1)))


def entry(**options: object) -> Entry:
    files = {"weights": File("file", "w.pth", "ab" * 32)}
    return Entry(
        "rcnn", Kind.DETECT, "torchvision_rcnn", "BSD-3-Clause", files, {"arch": MOBILENET, **options}
    )


@pytest.fixture(scope="module")
def network() -> Any:
    return random_network()


@pytest.fixture(scope="module")
def weights(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("rcnn") / "w.pth"
    # as torchvision publishes them: their frozen normalisation has no counters
    state = network.state_dict()
    state = {name: tensor for name, tensor in state.items() if "num_batches_tracked" not in name}
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def pipeline(weights: Path) -> DetectorPipeline:
    return build(entry(size=SIZE), {"weights": weights})


def pictures(count: int, size: int = SIZE) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [cv2.resize(picture, (size, size), interpolation=cv2.INTER_NEAREST) for picture in coarse]


def theirs(
    network: Any, picture: NDArray[np.uint8], score: float, iou: float, most: int
) -> dict[str, Tensor]:
    """torchvision's answer at the canvas's own size."""
    network.transform.min_size, network.transform.max_size = (picture.shape[0],), picture.shape[0]
    heads = network.roi_heads
    heads.score_thresh, heads.nms_thresh, heads.detections_per_img = score, iou, most
    with torch.inference_mode():
        (found,) = network([torch.from_numpy(picture).permute(2, 0, 1) / 255])
    return dict(found)


@pytest.mark.parametrize(("score", "iou", "most"), [(0.3, 0.5, 100), (0.3, 0.2, 100), (0.5, 0.7, 7)])
def test_agrees_with_torchvision(
    network: Any, pipeline: DetectorPipeline, score: float, iou: float, most: int
) -> None:
    """Whatever the thresholds of a request are: nothing was thrown away before them."""
    categories = detection.FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1.meta["categories"]
    options = DetectOptions(score_threshold=score, iou_threshold=iou, max_detections=most)
    found_any = 0
    for picture in pictures(3):
        expected = theirs(network, picture, score, iou, 1000)  # with the classes that COCO does not have
        item = pipeline.preprocess(Image(picture, SIZE, SIZE), options)
        outputs = eager(pipeline.module, item.inputs[0][None])
        (result,) = pipeline.postprocess(outputs, [item.context])
        named = [categories[int(label)] for label in expected["labels"]]
        real = [index for index, name in enumerate(named) if name != "N/A"][:most]
        assert [found.label for found in result.items] == [named[index] for index in real]
        np.testing.assert_allclose(
            [found.score for found in result.items], expected["scores"][real], atol=1e-4
        )
        boxes = np.array([found.box for found in result.items]).reshape(-1, 4)
        np.testing.assert_allclose(boxes, expected["boxes"][real], atol=1e-2)
        found_any += len(real)
    assert found_any > 3


def test_outputs_have_one_shape_and_one_class_a_box(pipeline: DetectorPipeline) -> None:
    with torch.inference_mode():
        boxes, scores = pipeline.module(torch.from_numpy(np.stack(pictures(2))))
    assert boxes.shape == (2, CANDIDATES, 4)
    assert scores.shape == (2, CANDIDATES, 80)
    assert boxes.dtype == scores.dtype == torch.float32
    assert ((scores > 0).sum(-1) <= 1).all()
    assert (boxes >= 0).all()
    assert (boxes <= SIZE).all()


def test_a_batch_answers_as_its_pictures_alone(pipeline: DetectorPipeline) -> None:
    options = [DetectOptions(score_threshold=threshold) for threshold in (0.2, 0.4, 0.3)]
    items = [
        pipeline.preprocess(Image(picture, SIZE, SIZE), chosen)
        for picture, chosen in zip(pictures(3), options, strict=True)
    ]
    together = eager(pipeline.module, np.stack([item.inputs[0] for item in items]))
    batched = pipeline.postprocess(together, [item.context for item in items])
    for item, result in zip(items, batched, strict=True):
        (single,) = pipeline.postprocess(eager(pipeline.module, item.inputs[0][None]), [item.context])
        assert [found.label for found in single.items] == [found.label for found in result.items]
        mine, other = ([(found.score, *found.box) for found in r.items] for r in (single, result))
        np.testing.assert_allclose(np.array(mine).reshape(-1, 5), np.array(other).reshape(-1, 5), atol=1e-2)


def test_card_labels_and_protocol(pipeline: DetectorPipeline) -> None:
    assert isinstance(pipeline, Pipeline)
    assert not pipeline.exportable
    card = pipeline.card
    assert (len(card.labels), card.labels[0], card.labels[-1]) == (80, "person", "toothbrush")
    assert (card.input, card.sha256, card.license) == ((SIZE, SIZE), "ab" * 32, "BSD-3-Clause")
    with pytest.raises(ParameterInvalid):
        pipeline.preprocess(Image(pictures(1)[0], SIZE, SIZE), DetectOptions(classes=("N/A",)))


def test_own_classes_and_safetensors(tmp_path: Path) -> None:
    state = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights_backbone=None, num_classes=3).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    (tmp_path / "names").write_text("cat\ndog\n\n")
    files = {"weights": tmp_path / "w.safetensors", "labels": tmp_path / "names"}
    small = build(entry(size=128), files)
    assert small.card.labels == ("cat", "dog")
    boxes, scores = small.module(torch.zeros(1, 128, 128, 3, dtype=torch.uint8))
    assert (boxes.shape, scores.shape) == ((1, CANDIDATES, 4), (1, CANDIDATES, 2))


def test_resnet50_agrees_with_torchvision_and_its_epsilon(tmp_path: Path) -> None:
    arch = "fasterrcnn_resnet50_fpn"
    network = random_network(arch, classes=3)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "names").write_text("cat\ndog\n")
    files = {"weights": tmp_path / "w.safetensors", "labels": tmp_path / "names"}
    large = build(entry(arch=arch, size=128, batch_norm_eps=0.0), files)
    vars(large.module.rpn)["_post_nms_top_n"]["testing"] = 150
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    picture = pictures(1, 128)[0]
    expected = theirs(network, picture, 0.4, 0.5, 100)
    item = large.preprocess(Image(picture, 128, 128), DetectOptions(score_threshold=0.4, iou_threshold=0.5))
    (result,) = large.postprocess(eager(large.module, item.inputs[0][None]), [item.context])
    columns = (expected["labels"][:, None] - 1, expected["scores"][:, None], expected["boxes"] / 128)
    mine = [(found.class_id, found.score, *np.divide(found.box, 128)) for found in result.items]
    distance = torch.cdist(torch.tensor(mine, dtype=torch.float32), torch.cat(columns, dim=1), p=torch.inf)
    assert len(mine) > 10
    assert distance.shape[0] == distance.shape[1]
    assert distance.min(dim=0).values.max() < 1e-3  # in whatever order nearly equal scores come


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "resnet50"}, "'rcnn': options.arch is 'resnet50', none of fasterrcnn_mobilenet"),
        ({"size": 100}, "options.size is 100, no multiple of 32"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, object], message: str, weights: Path) -> None:
    with pytest.raises(WeightsError, match=re.escape(message)):
        build_entry(entry(**options), {"weights": weights})


@pytest.mark.parametrize("content", ["garbage", "list", "other", "none"])
def test_files_that_are_no_such_weights_are_errors(content: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    if content == "garbage":
        path.write_bytes(b"no pickle at all")
    elif content == "list":
        torch.save([1, 2], path)
    elif content == "other":
        torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"w\.pth"):
        build_entry(entry(), {"weights": path})
