"""Torchvision's classifiers: the same answer as torchvision's own preset transforms and network."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image as PILImage
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from models.classification.pipeline import ClassifierPipeline
from models.classification.torchvision import build, load, preset_crop
from models.errors import WeightsError
from models.image import Image, decode
from models.pipeline import Kind
from models.registry import build_entry
from models.weights import Entry, File
from tests.models.image.test_decode import smooth
from tests.paths import SHARED, needs_shared

# Every family that differs in its head, its first layer or the way it is built; the large ones are left out.
ARCHES = [
    "resnet18",
    "googlenet",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
]


def network(arch: str, classes: int = 1000) -> nn.Module:
    """Torchvision's own network with random weights, and statistics that let it tell pictures apart."""
    torch.manual_seed(0)
    special = {"init_weights": True, "transform_input": True} if arch in ("googlenet", "inception_v3") else {}
    made: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=classes, **special)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    blurred = nn.functional.interpolate(torch.randn(4, 3, 12, 12), (299, 299), mode="bicubic")
    with torch.no_grad():
        made.train()(blurred)
    return made.eval()


def entry(options: dict[str, Any]) -> Entry:
    return Entry(
        name="tuned",
        task=Kind.CLASSIFY,
        builder="torchvision_classifier",
        license="BSD-3-Clause",
        files={"weights": File("file", "unused", "ab" * 32)},
        options=options,
    )


def saved(state: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@needs_shared
@pytest.mark.parametrize("arch", [*ARCHES, "inception_v3"])
def test_probabilities_are_torchvisions(arch: str, tmp_path: Path) -> None:
    theirs = network(arch)
    path = saved(theirs.state_dict(), tmp_path / ("w.pth" if arch == "resnet18" else "w.safetensors"))
    pipeline = build(entry({"arch": arch}), {"weights": path})
    photo = SHARED / "data" / "photos" / "dog.jpg"
    image = decode(photo.read_bytes(), min_side=None)
    prepared = pipeline.preprocess(image)
    assert prepared.inputs[0].shape == pipeline.shapes[0]
    weights = torchvision.models.get_model_weights(arch).DEFAULT
    with torch.inference_mode():
        ours = pipeline.module(torch.from_numpy(prepared.inputs[0])[None])[0]
        picture = weights.transforms()(PILImage.open(photo))[None]
        expected = theirs(picture)
        torch.testing.assert_close(ours.sum(), torch.tensor(1.0))
        # The same crop, but for one level of rounding in some pixels.
        normalised = pipeline.module.normalise(torch.from_numpy(prepared.inputs[0])[None])  # type: ignore[operator]
        levels = (normalised - picture).abs() * pipeline.module.scale
        assert levels.max() < (1.01 if weights.transforms().interpolation.value == "bilinear" else 3.01)
        # From the same picture, the network must answer the same.
        torch.testing.assert_close(ours, theirs(normalised).softmax(1), atol=1e-6, rtol=1e-4)
        # From the file as torchvision itself reads it: logits within 5% of their spread.
        logits = pipeline.module.network(normalised)  # type: ignore[operator]
        assert (logits - expected).abs().max() < 0.05 * expected.std()
    (result,) = pipeline.postprocess((ours.numpy(),), [prepared.context])
    assert (result.width, result.height) == (768, 576)
    assert result.labels[0].label == weights.meta["categories"][int(ours.argmax())]


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (257, 256), (40, 30), (1000, 10), (1, 1)])
def test_the_crop_is_torchvisions(size: tuple[int, int], mode: Literal["bilinear", "bicubic"]) -> None:
    pixels = smooth(*size)
    resized = transforms.resize(PILImage.fromarray(pixels), [232], InterpolationMode(mode), antialias=True)
    expected = np.asarray(transforms.center_crop(resized, [224]))
    cropped = preset_crop(Image(pixels, size[1], size[0]), 224, 232, mode)
    assert cropped.shape == (224, 224, 3)
    assert np.abs(cropped.astype(int) - expected).max() <= (1 if size[0] < 500 else 8)


def test_a_strip_costs_no_gigabytes() -> None:
    assert preset_crop(Image(np.zeros((2, 60_000, 3), np.uint8), 60_000, 2), 224, 256).shape == (224, 224, 3)


def test_card_and_geometry_come_from_the_weights(tmp_path: Path) -> None:
    path = saved(network("resnet18").state_dict(), tmp_path / "w.pth")
    pipeline = build(entry({"arch": "resnet18", "weights": "IMAGENET1K_V1"}), {"weights": path})
    assert isinstance(pipeline, ClassifierPipeline)
    assert pipeline.card.input == (224, 224)
    assert pipeline.card.labels[207] == "golden retriever"
    assert pipeline.card.sha256 == "ab" * 32
    assert pipeline.card.details["crop_fraction"] == 224 / 256
    assert pipeline.min_side == 256


def test_an_operators_own_labels(tmp_path: Path) -> None:
    path = saved(network("squeezenet1_1", classes=3).state_dict(), tmp_path / "w.safetensors")
    labels = tmp_path / "labels.txt"
    labels.write_text("apple\npear\nquince\n")
    pipeline = build(entry({"arch": "squeezenet1_1"}), {"weights": path, "labels": labels})
    assert pipeline.card.labels == ("apple", "pear", "quince")
    probabilities, features = pipeline.module(torch.zeros(2, 224, 224, 3, dtype=torch.uint8))
    assert (probabilities.shape, features.shape) == ((2, 3), (2, 512))
    assert pipeline.card.features == 512


def test_auxiliary_heads_and_missing_counters_are_no_obstacle(tmp_path: Path) -> None:
    theirs = torchvision.models.googlenet(
        weights=None, aux_logits=True, init_weights=False, num_classes=10
    ).eval()
    state = {name: tensor for name, tensor in theirs.state_dict().items() if "num_batches" not in name}
    loaded = load("googlenet", saved(state, tmp_path / "w.pth"), classes=10)
    assert not any(parameter.is_meta for parameter in [*loaded.parameters(), *loaded.buffers()])
    assert loaded.transform_input
    assert loaded(torch.zeros(1, 3, 224, 224)).shape == (1, 10)


def test_old_names_of_densenet(tmp_path: Path) -> None:
    theirs = network("densenet121", classes=4)
    old = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): tensor
        for name, tensor in theirs.state_dict().items()
    }
    loaded = load("densenet121", saved(old, tmp_path / "w.pth"), classes=4)
    picture = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(loaded(picture), theirs(picture))


def test_regnet_is_built_too(tmp_path: Path) -> None:
    theirs = network("regnet_x_400mf", classes=4)
    loaded = load("regnet_x_400mf", saved(theirs.state_dict(), tmp_path / "w.pth"), classes=4)
    picture = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(loaded(picture), theirs(picture))


def test_a_file_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    path = saved(network("resnet18", classes=4).state_dict(), tmp_path / "mine.pth")
    with pytest.raises(
        WeightsError, match=r"'tuned'.*mine\.pth.*resnet34.*missing: layer1\.2\.conv1.*and \d+ more"
    ):
        build_entry(entry({"arch": "resnet34"}), {"weights": path})
    with pytest.raises(WeightsError, match=r"wrong shape: fc\.weight \(4, 512\) for \(1000, 512\)"):
        build_entry(entry({"arch": "resnet18"}), {"weights": path})
    with pytest.raises(WeightsError, match=r"unexpected: conv1\.weight, bn1"):
        build_entry(entry({"arch": "alexnet"}), {"weights": path})


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x04K\x01."])
@pytest.mark.parametrize("name", ["bad.pth", "bad.safetensors"])
def test_no_weights_at_all(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"'tuned'.*{name}.*no state dict"):
        build_entry(entry({"arch": "resnet18"}), {"weights": tmp_path / name})


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"weight": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(WeightsError, match=r"evil\.pth"):
        build_entry(entry({"arch": "resnet18"}), {"weights": path})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no classifier ''"),
        ({"arch": "resnet"}, "no classifier 'resnet'; near it: resnet"),
        ({"arch": "fasterrcnn_resnet50_fpn"}, "no classifier"),
        ({"arch": "resnet50", "weights": "V3"}, "IMAGENET1K_V1, IMAGENET1K_V2"),
        ({"arch": "vgg16", "weights": "IMAGENET1K_FEATURES"}, "features without a classifier"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        build_entry(entry(options), {"weights": tmp_path / "w.pth"})
