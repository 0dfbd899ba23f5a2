"""EfficientNet-Lite0 against a plain reading of the checkpoint, and on real pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import EfficientNet_B0_Weights

from models.backbones.efficientnet_lite import PYRAMID_CHANNELS, ConvNorm
from models.builders.efficientnet import IMAGENET, build
from models.checkpoint import read_labels
from models.classification.efficientnet import EfficientNetLite, load
from models.classification.pipeline import ClassifierPipeline
from models.classification.result import ClassifyOptions
from models.errors import ParameterInvalid, WeightsError
from models.image import Image, decode
from models.pipeline import eager
from models.weights import Catalogue, Store
from tests.paths import SHARED, needs_shared

ENTRY = "efficientnet-lite0"


@pytest.fixture(scope="module")
def files() -> Mapping[str, Path]:
    try:
        return Store().files(Catalogue()[ENTRY])
    except WeightsError as error:
        pytest.skip(f"{error}")


@pytest.fixture(scope="module")
def pipeline(files: Mapping[str, Path]) -> ClassifierPipeline:
    return build(Catalogue()[ENTRY], files)


def tensorflow_conv(inputs: Tensor, weight: Tensor, stride: int) -> Tensor:
    """ "SAME" as TensorFlow's documentation defines it, output cell by output cell."""
    kernel = weight.shape[-1]
    outputs = -(-inputs.shape[-1] // stride)
    before = max((outputs - 1) * stride + kernel - inputs.shape[-1], 0) // 2
    wide = F.pad(inputs, (kernel, kernel, kernel, kernel))
    cells = []
    for row in range(outputs):
        for column in range(outputs):
            y, x = row * stride - before + kernel, column * stride - before + kernel
            patch = wide[:, :, y : y + kernel, x : x + kernel]
            cells.append(torch.einsum("nchw,ochw->no", patch, weight))
    return torch.stack(cells, dim=2).view(len(inputs), -1, outputs, outputs)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [8, 9])
def test_padding_is_tensorflows(kernel: int, stride: int, size: int) -> None:
    layer = ConvNorm(3, 4, kernel, stride, activate=False).eval()
    inputs = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = tensorflow_conv(inputs, layer.conv.weight, stride) / (1 + 1e-3) ** 0.5
        torch.testing.assert_close(layer(inputs), expected, rtol=1e-4, atol=1e-5)


def test_features_are_a_pyramid() -> None:
    network = EfficientNetLite(classes=10).eval()
    with torch.no_grad():
        maps = network.backbone(torch.randn(2, 3, 64, 96))
        assert [tuple(map_.shape) for map_ in maps] == [
            (2, channels, 64 // stride, 96 // stride)
            for channels, stride in zip(PYRAMID_CHANNELS, (8, 16, 32), strict=True)
        ]
        early = network.backbone(torch.randn(1, 3, 33, 33), (-1, 0, 1))
        assert [map_.shape[1:] for map_ in early] == [(32, 17, 17), (16, 17, 17), (24, 9, 9)]
        assert network(torch.randn(2, 3, 64, 64)).shape == (2, 10)


def test_another_file_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    other.write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match=r"other\.pth"):
        load(other)
    torch.save({"_fc.bias": torch.zeros(3)}, other)
    with pytest.raises(WeightsError, match=r"other\.pth"):
        load(other)


def test_every_weight_is_where_the_checkpoint_says(files: Mapping[str, Path]) -> None:
    published = torch.load(files["weights"], weights_only=True)
    network = load(files["weights"])
    images = torch.rand(1, 3, 64, 64) * 2 - 1

    def block(
        hidden: Tensor, conv: str, norm: str, stride: int, groups: int, *, bounded: bool = True
    ) -> Tensor:
        weight = published[f"{conv}.weight"]
        kernel, size = weight.shape[-1], hidden.shape[-1]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        edges = (total // 2, total - total // 2)
        hidden = F.conv2d(F.pad(hidden, (*edges, *edges)), weight, stride=stride, groups=groups)
        mean, variance = published[f"{norm}.running_mean"], published[f"{norm}.running_var"]
        scale, shift = published[f"{norm}.weight"], published[f"{norm}.bias"]
        hidden = F.batch_norm(hidden, mean, variance, scale, shift, eps=1e-3)
        return hidden.clamp(0, 6) if bounded else hidden

    strides = dict.fromkeys((1, 3, 5, 11), 2)
    hidden = block(images, "_conv_stem", "_bn0", 2, 1)
    for index in range(16):
        name, kept = f"_blocks.{index}", hidden
        if index:
            hidden = block(hidden, f"{name}._expand_conv", f"{name}._bn0", 1, 1)
        stride = strides.get(index, 1)
        hidden = block(hidden, f"{name}._depthwise_conv", f"{name}._bn1", stride, hidden.shape[1])
        hidden = block(hidden, f"{name}._project_conv", f"{name}._bn2", 1, 1, bounded=False)
        if stride == 1 and hidden.shape == kept.shape:
            hidden = hidden + kept
    hidden = block(hidden, "_conv_head", "_bn1", 1, 1).mean(dim=(2, 3))
    expected = F.linear(hidden, published["_fc.weight"], published["_fc.bias"])
    with torch.no_grad():
        torch.testing.assert_close(network(images), expected, rtol=1e-3, atol=1e-4)


def test_probabilities_and_limits(pipeline: ClassifierPipeline) -> None:
    grey = Image(torch.full((40, 300, 3), 90, dtype=torch.uint8).numpy(), 300, 40)
    batch = [pipeline.preprocess(grey, ClassifyOptions(top_k=k)) for k in (1, 1000)]
    assert batch[0].inputs[0].shape == pipeline.shapes[0] == (224, 224, 3)
    outputs = eager(pipeline.module, np.stack([item.inputs[0] for item in batch]))
    np.testing.assert_allclose(outputs[0].sum(axis=1), 1, atol=1e-5)
    few, all_ = pipeline.postprocess(outputs, [item.context for item in batch])
    assert (len(few.labels), len(all_.labels)) == (1, 1000)
    assert (few.width, few.height) == (300, 40)
    assert few.labels[0].label == all_.labels[0].label == pipeline.card.labels[few.labels[0].index]
    assert sorted(all_.labels, key=lambda label: -label.score) == list(all_.labels)
    for bad in (0, -1, 1001):
        with pytest.raises(ParameterInvalid) as caught:
            pipeline.preprocess(grey, ClassifyOptions.of({"top_k": bad}))
        assert caught.value.parameter == "top_k"


@needs_shared
def test_real_pictures_are_told_apart(pipeline: ClassifierPipeline) -> None:
    paths = sorted((SHARED / "data" / "imagenet-sample").glob("*.jpg"))[::5]
    images = [decode(path.read_bytes(), min_side=pipeline.min_side) for path in paths]
    items = [pipeline.preprocess(image, ClassifyOptions(top_k=1)) for image in images]
    outputs = eager(pipeline.module, np.stack([item.inputs[0] for item in items]))
    answers = pipeline.postprocess(outputs, [item.context for item in items])
    right = [
        answer.labels[0].index == int(path.name.split("_")[0])
        for answer, path in zip(answers, paths, strict=True)
    ]
    assert sum(right) >= 0.85 * len(right)


@needs_shared
def test_a_larger_variant_tells_pictures_apart() -> None:
    entry = Catalogue()["efficientnet-lite2"]
    try:
        pipeline = build(entry, Store().files(entry))
    except WeightsError as error:
        pytest.skip(f"{error}")
    assert pipeline.card.input == (260, 260)
    assert pipeline.perceptual is None  # style jobs measure with Lite0
    test_real_pictures_are_told_apart(pipeline)


@pytest.mark.parametrize("names", [999, 1001])
def test_as_many_labels_as_classes(files: Mapping[str, Path], tmp_path: Path, names: int) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(str(index) for index in range(names)))
    with pytest.raises(WeightsError, match=f"{names} labels, but the network has 1000 classes"):
        _ = build(Catalogue()[ENTRY], {**files, "labels": labels}).module


def test_the_labels_are_those_of_torchvisions_weights() -> None:
    assert list(read_labels(IMAGENET)) == EfficientNet_B0_Weights.DEFAULT.meta["categories"]
