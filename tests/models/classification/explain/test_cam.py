"""Grad-CAM against a plain computation with hooks, its geometry, and that it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np
import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from models.builders.lenet import LABELS
from models.classification.classifier import Classifier
from models.classification.digits import DigitPipeline, digit_crop, place
from models.classification.efficientnet import EfficientNetLite
from models.classification.explain.cam import grad_cam
from models.classification.explain.drawing import overlay
from models.classification.explain.maps import HeatMap, find_label
from models.classification.lenet import load
from models.classification.pipeline import ClassifierPipeline
from models.errors import ParameterInvalid, WeightsError
from models.image import Image, center_crop, decode
from models.pipeline import Card, Kind
from models.weights import COMMITTED, Catalogue, Store
from tests.models.image.test_decode import smooth
from tests.paths import SHARED, needs_shared


def pipeline_of(
    network: nn.Module, size: int = 96, classes: int = 10, fraction: float = 0.875
) -> ClassifierPipeline:
    labels = tuple(f"class {index}" for index in range(classes))
    card = Card("net", Kind.CLASSIFY, "none", "0" * 64, labels, (size, size), crop_fraction=fraction)
    crop = partial(center_crop, size=size, fraction=fraction)
    return ClassifierPipeline(card, lambda: Classifier(network, (127.0,), (60.0,)), crop, min_side=None)


def lively(network: nn.Module) -> nn.Module:
    """Gives batch norms the statistics of some pictures, so that random weights answer something."""
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network.train()
        network(nn.functional.interpolate(torch.randn(4, 3, 9, 9), (96, 96), mode="bicubic"))
    return network.eval()


def digits() -> DigitPipeline:
    card = Card("lenet5", Kind.CLASSIFY, "none", "0" * 64, LABELS, (32, 32))
    module = Classifier(load(COMMITTED / "lenet5.safetensors"), (0.0,), (255.0,))
    return DigitPipeline(card, lambda: module, digit_crop, min_side=None)


def picture(height: int = 120, width: int = 170) -> Image:
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    return Image((smooth(height, width) * 0.7 + noise).astype(np.uint8), width, height)


def by_hooks(pipeline: ClassifierPipeline, layer: nn.Module, image: Image, index: int) -> Tensor:
    """The textbook way: a hook on a layer that the reader has to know."""
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    module = pipeline.module
    assert isinstance(module, Classifier)
    inputs = module.normalise(torch.from_numpy(pipeline.preprocess(image).inputs[0])[None]).requires_grad_()
    logits = module.network(inputs)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, index], kept[0])
    heat = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1)[0].relu().detach()
    return heat / heat.max().clamp(min=1e-30)


# Each with the name of its last feature layer.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "efficientnet_lite0": (lambda: EfficientNetLite(10), "head"),
    "resnet18": (lambda: tv.resnet18(num_classes=10), "layer4"),
    "alexnet": (lambda: tv.alexnet(num_classes=10), "features.11"),
    "googlenet": (lambda: tv.googlenet(num_classes=10, aux_logits=False, init_weights=False), "inception5b"),
    "mobilenet_v3_small": (lambda: tv.mobilenet_v3_small(num_classes=10), "features.12"),
}


def resnet(fraction: float = 0.875) -> ClassifierPipeline:
    torch.manual_seed(0)
    return pipeline_of(lively(tv.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)), fraction=fraction)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_map_is_that_of_the_last_feature_layer(name: str) -> None:
    torch.manual_seed(0)
    make, layer = NETWORKS[name]
    network = lively(make())
    pipeline = pipeline_of(network)
    for index in (3, 7):
        heat = grad_cam(pipeline, picture(), f"class {index}")
        expected = by_hooks(pipeline, network.get_submodule(layer), picture(), index)
        torch.testing.assert_close(torch.from_numpy(heat.grid), expected, atol=1e-4, rtol=1e-3)
        assert heat.index == index


def test_lenets_map() -> None:
    image = Image(np.repeat(smooth(32, 32)[..., :1], 3, 2), 32, 32)
    pipeline = digits()
    heat = grad_cam(pipeline, image, "7")
    expected = by_hooks(pipeline, pipeline.module.get_submodule("network.features.4"), image, 7)
    torch.testing.assert_close(torch.from_numpy(heat.grid), expected)


def test_without_a_label_the_likeliest_is_explained() -> None:
    pipeline = resnet()
    heat = grad_cam(pipeline, picture())
    probabilities = pipeline.module(torch.from_numpy(pipeline.preprocess(picture()).inputs[0])[None])[0][0]
    assert heat.index == int(probabilities.argmax())
    assert heat.score == pytest.approx(float(probabilities.max()), rel=1e-4)
    assert heat.label == f"class {heat.index}"


def test_the_array_lies_over_the_crop() -> None:
    pipeline = resnet(fraction=0.5)
    heat = grad_cam(pipeline, picture(100, 200))
    assert heat.region == pytest.approx((75, 25, 125, 75))
    assert heat.over(100, 200).shape == (100, 200)
    assert heat.over(100, 200).dtype == np.float32
    assert heat.over(100, 200).min() >= 0
    assert 0.3 < heat.over(100, 200).max() <= 1
    outside = heat.over(100, 200).copy()
    outside[25:75, 75:125] = 0
    assert (outside == 0).all()
    rows, columns = heat.grid.shape
    row, column = np.unravel_index(heat.grid.argmax(), heat.grid.shape)
    y, x = int(25 + (row + 0.5) * 50 / rows), int(75 + (column + 0.5) * 50 / columns)
    assert heat.over(100, 200)[y, x] == pytest.approx(1, abs=0.15)


def test_a_reduced_picture_keeps_the_region_in_original_pixels() -> None:
    pipeline = resnet(fraction=0.5)
    heat = grad_cam(pipeline, Image(picture(100, 200).pixels, 800, 400))
    assert heat.region == pytest.approx((300, 100, 500, 300))
    assert heat.over(100, 200).shape == (100, 200)
    assert heat.over(100, 200)[:25].max() == 0


def test_a_digits_heat_lies_on_the_digit() -> None:
    paper = np.full((300, 400, 3), 240, np.uint8)
    paper[100:200, 300:312] = 30  # a one, far right
    image = Image(paper, 400, 300)
    heat = grad_cam(digits(), image)
    assert heat.label == "1"
    assert heat.region == place(image)[1]
    assert heat.over(300, 400)[:, :200].max() == 0
    assert heat.over(300, 400)[80:220, 240:380].max() > 0.8


def test_labels_by_name_or_by_index() -> None:
    card = Card("net", Kind.CLASSIFY, "none", "0" * 64, ("crane", "1", "crane"))
    assert find_label(card, "crane") == 0
    assert find_label(card, "1") == 1
    assert find_label(card, "2") == 2
    for wrong in ("9" * 5000, "3", "-1", "²", "dog", ""):
        with pytest.raises(ParameterInvalid, match="no label") as caught:
            find_label(card, wrong)
        assert caught.value.parameter == "label"


def test_a_transformer_has_no_map() -> None:
    network = tv.VisionTransformer(
        image_size=96, patch_size=32, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8, num_classes=10
    )
    with pytest.raises(ParameterInvalid, match="no convolutional map"):
        grad_cam(pipeline_of(network), picture())


def test_threads_do_not_disturb_each_other_and_nothing_is_left_behind() -> None:
    pipeline = resnet()
    module, image = pipeline.module, picture()
    batch = torch.from_numpy(pipeline.preprocess(image).inputs[0])[None]
    alone = {index: grad_cam(pipeline, image, str(index)).grid for index in range(4)}

    def work(turn: int) -> bool:
        if turn % 2:
            with torch.inference_mode():
                return not module(batch)[0].requires_grad
        return bool(
            np.allclose(grad_cam(pipeline, image, str(turn // 2 % 4)).grid, alone[turn // 2 % 4], atol=1e-5)
        )

    with ThreadPoolExecutor(4) as pool, torch.inference_mode():
        assert all(pool.map(work, range(24)))
        grad_cam(pipeline, image)  # also from within inference mode
    assert not any(layer._forward_hooks or layer._backward_hooks for layer in module.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in module.parameters())
    assert not module(batch)[0].requires_grad


def test_overlay_colours_only_where_there_is_heat() -> None:
    pipeline, image = (
        resnet(fraction=0.5),
        picture(100, 200),
    )
    heat = grad_cam(pipeline, image)
    mixed = overlay(image, heat)
    assert mixed.shape == (100, 200, 3)
    assert mixed.dtype == np.uint8
    np.testing.assert_array_equal(mixed[heat.over(100, 200) == 0], image.pixels[heat.over(100, 200) == 0])
    assert (mixed[heat.over(100, 200) > 0.9] != image.pixels[heat.over(100, 200) > 0.9]).any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 70_000), (65_535, 2), (700, 1_000)])
def test_overlay_in_bands_is_overlay_of_the_whole(height: int, width: int) -> None:
    generator = np.random.default_rng(1)
    image = Image(generator.integers(0, 256, (height, width, 3), np.uint8), 2 * width, 3 * height)
    grid = generator.random((7, 7), np.float32)
    region = (0.3 * width, 0.1 * height, 1.9 * width, 3.5 * height)
    heat = HeatMap(0, "dog", 0.5, grid, region, image.width, image.height)
    warmth = heat.over(height, width)
    colours = cv2.applyColorMap((warmth * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    weight = (0.6 * warmth)[..., None]
    whole = (image.pixels * (1 - weight) + colours * weight + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(overlay(image, heat), whole)


@needs_shared
def test_a_real_dog_is_where_the_heat_is() -> None:
    entry = Catalogue()["efficientnet-lite0"]
    try:
        files = Store().files(entry)
    except WeightsError:
        pytest.skip("the weights of efficientnet-lite0 were not fetched (make weights)")
    from models.builders.efficientnet import build

    image = decode((SHARED / "data" / "photos" / "dog.jpg").read_bytes())
    pipeline = build(entry, files)
    dog = grad_cam(pipeline, image, "German shepherd").over(*image.pixels.shape[:2])
    bicycle = grad_cam(pipeline, image, "mountain bike").over(*image.pixels.shape[:2])
    assert dog[220:540, 130:320].mean() > 3 * dog[:200].mean()  # the dog sits lower left
    assert dog[220:540, 130:320].mean() > bicycle[220:540, 130:320].mean()
    assert bicycle[200:430, 330:560].mean() > dog[200:430, 330:560].mean()
