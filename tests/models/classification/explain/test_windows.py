"""The sliding classifier: every score of the map is what its window gets alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.models as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from models.classification.classifier import Classifier
from models.classification.efficientnet import EfficientNetLite
from models.classification.explain.windows import Sliding, sliding, windows
from models.classification.lenet import LeNet5, load
from models.errors import ParameterInvalid, WeightsError
from models.image import Image, decode, resize
from models.weights import COMMITTED, Catalogue, Store
from tests.models.classification.explain.test_cam import digits, lively, pipeline_of
from tests.models.image.test_decode import smooth
from tests.paths import SHARED, needs_shared

# Torchvision's classes, shallow or narrow where they let themselves be made so.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "efficientnet_lite0": lambda: EfficientNetLite(10),
    "alexnet": lambda: tv.AlexNet(num_classes=10),
    "resnet": lambda: tv.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10),
    "mobilenet_v2": lambda: tv.MobileNetV2(width_mult=0.25, num_classes=10),
    "densenet": lambda: tv.DenseNet(8, (1, 2, 1, 1), 16, num_classes=10),
    "googlenet": lambda: tv.GoogLeNet(10, aux_logits=False, transform_input=True, init_weights=False),
    "inception_v3": lambda: tv.Inception3(10, aux_logits=False, transform_input=True, init_weights=False),
}


def small_vgg() -> nn.Module:
    """Torchvision's VGG with narrow layers, as the real ones have half a gigabyte of weights."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 8), (8, 8), (8, 8), (8, 4)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    with torch.device("meta"):
        network: nn.Module = tv.VGG(nn.Sequential(), num_classes=10, init_weights=False)
    network.features = nn.Sequential(*layers)
    network.classifier = nn.Sequential(nn.Linear(4 * 7 * 7, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10))
    return network


def noise(height: int, width: int, count: int = 1) -> Tensor:
    """Blurred noise: uint8 Tensor[count, height, width, 3]."""
    torch.manual_seed(0)
    coarse = torch.rand(count, 3, height // 8 + 1, width // 8 + 1) * 255
    grown = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return grown.permute(0, 2, 3, 1).to(torch.uint8)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 8), st.integers(0, 8))
def test_lenets_map_is_exactly_its_crops(rows: int, columns: int) -> None:
    module = Classifier(load(COMMITTED / "lenet5.safetensors"), (0.0,), (255.0,))
    slid = Sliding(module, 32)
    assert (slid.stride, slid.grid) == (4, 5)
    picture = noise(32 + 4 * rows, 32 + 4 * columns)
    with torch.inference_mode():
        dense = slid(picture)
        assert dense.shape == (1, 10, rows + 1, columns + 1)
        for y in range(rows + 1):
            for x in range(columns + 1):
                alone = module(picture[:, 4 * y : 4 * y + 32, 4 * x : 4 * x + 32])[0]
                torch.testing.assert_close(dense[:, :, y, x], alone, atol=1e-6, rtol=1e-5)


def test_the_function_gives_the_crops_scores() -> None:
    pipeline, stride = digits(), 4
    pixels = noise(72, 88)[0].numpy() // 4  # dark: not inverted; one canvas pixel each
    image = Image(pixels, pixels.shape[1], pixels.shape[0])
    found = windows(pipeline, image, "3", fraction=32 / pixels.shape[0])
    assert found.step == pytest.approx((stride, stride))
    assert found.window == pytest.approx((32, 32))
    assert found.scores.shape == (11, 15)
    with torch.inference_mode():
        for y, x in [(0, 0), (3, 2), (found.scores.shape[0] - 1, found.scores.shape[1] - 1)]:
            crop = pixels[y * stride : y * stride + 32, x * stride : x * stride + 32]
            alone = pipeline.module(torch.from_numpy(crop.copy())[None])[0][0, 3]
            assert found.scores[y, x] == pytest.approx(float(alone), abs=1e-5)


def network_of(name: str) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    network = small_vgg() if name == "vgg" else NETWORKS[name]()
    return (network.eval() if name == "vgg" else lively(network)), 299 if name == "inception_v3" else 224


@pytest.mark.parametrize("name", [*NETWORKS, "vgg"])
def test_one_window_is_the_plain_classifier(name: str) -> None:
    network, size = network_of(name)
    module = Classifier(network, (127.0,), (60.0,))
    slid = Sliding(module, size)
    assert slid.stride == 32
    picture = noise(size, size)
    with torch.inference_mode():
        torch.testing.assert_close(slid(picture)[:, :, 0, 0], module(picture)[0], atol=1e-5, rtol=1e-3)
        assert slid(noise(size + 32, size)).shape == (1, 10, 2, 1)


# Half of the receptive field, in whole strides: what a window's features see beyond it on each side.
MARGINS = {"alexnet": 96, "vgg": 128, "resnet": 224, "mobilenet_v2": 256, "efficientnet_lite0": 448}


@pytest.mark.parametrize("name", MARGINS)
def test_a_score_is_that_of_the_window_cropped_with_what_it_sees(name: str) -> None:
    network, size = network_of(name)
    module, margin = Classifier(network, (127.0,), (60.0,)), MARGINS[name]
    slid = Sliding(module, size)
    picture = noise(size, size + 2 * margin + 128)
    with torch.inference_mode():
        dense = slid(picture)
        columns = dense.shape[3]
        assert columns == 2 * margin // 32 + 5
        for column in (1, margin // 32 + 2):
            first = max(0, 32 * column - margin)
            crop = picture[:, :, first : 32 * column + size + margin]  # smaller than the picture
            assert crop.shape[2] < picture.shape[2]
            features = slid.trunk(module.normalise(crop))
            start = column - first // 32
            own = features[..., start : start + slid.grid]
            assert own.shape[2:] == (slid.grid, slid.grid)
            torch.testing.assert_close(
                dense[..., column], by_hand(network, own)[..., None], atol=1e-5, rtol=1e-3
            )


def by_hand(network: nn.Module, features: Tensor) -> Tensor:
    """The network's own head, as its class writes it, on the features of one window."""
    match network:
        case EfficientNetLite():
            logits = network.classify(features.mean((2, 3)))
        case tv.ResNet():
            logits = network.fc(features.mean((2, 3)))
        case tv.MobileNetV2():
            logits = network.classifier(features.mean((2, 3)))
        case _:
            logits = network.classifier(features.flatten(1))  # type: ignore[operator]
    return logits.softmax(1)  # type: ignore[no-any-return]


def test_boxes_are_windows_in_original_pixels() -> None:
    """Two ones on a dark sheet, decoded at half its size: the boxes hold them."""
    pixels = np.zeros((128, 192, 3), np.uint8)
    for x in (40, 140):
        pixels[54:74, x : x + 4] = 255
    image = Image(pixels, 384, 256)
    found = windows(digits(), image, "1", fraction=32 / 128, score_threshold=0.9)
    assert found.window == pytest.approx((64, 64))
    assert found.scores.max() > 0.9
    for x in (84, 284):
        assert any(box.box[0] < x < box.box[2] and box.box[1] < 128 < box.box[3] for box in found.boxes)
    for box in found.boxes:
        assert box.label == "1"
        assert box.class_id == found.index == 1
        assert 0 <= box.box[0] < box.box[2] <= 384
        assert 0 <= box.box[1] < box.box[3] <= 256
        column, row = box.box[0] / found.step[0], box.box[1] / found.step[1]
        assert box.score == pytest.approx(float(found.scores[round(row), round(column)]))
    scores = [box.score for box in found.boxes]
    assert scores == sorted(scores, reverse=True)


def test_ink_on_paper_is_inverted_as_for_one_digit() -> None:
    dark = smooth(64, 64) // 8
    ink, paper = (windows(digits(), Image(pixels, 64, 64), "5").scores for pixels in (dark, 255 - dark))
    np.testing.assert_allclose(ink, paper, atol=1e-6)


def test_the_whole_picture_as_one_window() -> None:
    pipeline = digits()
    pixels = noise(100, 100)[0].numpy() // 4
    found = windows(pipeline, Image(pixels, 100, 100), "0", fraction=1.0, score_threshold=0.0)
    alone = pipeline.module(torch.from_numpy(resize(pixels, 32, 32))[None])[0][0, 0]
    assert found.scores.shape == (1, 1)
    assert found.scores[0, 0] == pytest.approx(float(alone), abs=1e-5)
    assert found.boxes[0].box == (0, 0, 100, 100)


@pytest.mark.parametrize(
    ("parameter", "options"),
    [
        ("fraction", {"fraction": 0.0}),
        ("fraction", {"fraction": 1.1}),
        ("fraction", {"fraction": 0.001}),
        ("fraction", {"fraction": 1e-9}),
        ("fraction", {"fraction": 1e-160}),
        ("fraction", {"fraction": 1e-320}),
        ("fraction", {"fraction": float("nan")}),
        ("label", {"label": "ten"}),
    ],
)
def test_parameters_out_of_range(parameter: str, options: dict[str, float | str]) -> None:
    with pytest.raises(ParameterInvalid) as caught:
        windows(digits(), Image(smooth(64, 64), 64, 64), **{"label": "1", **options})  # type: ignore[arg-type]
    assert caught.value.parameter == parameter


def test_a_network_that_pools_the_whole_picture_inside_is_refused() -> None:
    pipeline = pipeline_of(tv.mobilenet_v3_small(num_classes=10))
    with pytest.raises(ParameterInvalid, match="MobileNetV3 cannot be slid"):
        windows(pipeline, Image(smooth(64, 64), 64, 64), "1")


def test_a_sliding_classifier_is_made_once_and_shares_its_parameters() -> None:
    module = Classifier(LeNet5().eval(), (0.0,), (255.0,))
    assert sliding(module, 32) is sliding(module, 32)
    assert {id(p) for p in sliding(module, 32).parameters()} == {id(p) for p in module.parameters()}


@needs_shared
def test_windows_of_a_dog_land_on_the_dog() -> None:
    entry = Catalogue()["efficientnet-lite0"]
    try:
        files = Store().files(entry)
    except WeightsError:
        pytest.skip("the weights of efficientnet-lite0 were not fetched (make weights)")
    from models.builders.efficientnet import build

    image = decode((SHARED / "data" / "photos" / "dog.jpg").read_bytes())
    found = windows(build(entry, files), image, "malamute", fraction=0.6)
    assert found.boxes[0].score > 0.3
    x1, y1, x2, y2 = found.boxes[0].box
    assert x1 < 225 < x2  # the middle of the dog
    assert y1 < 380 < y2
    rows, columns = found.scores.shape
    assert found.scores[: rows // 2, columns // 2 :].max() < found.boxes[0].score / 3  # the street behind
