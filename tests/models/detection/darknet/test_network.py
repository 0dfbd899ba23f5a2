"""Darknet networks against OpenCV's importer, slow references and real pictures."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.detection.darknet import cfg as cfg
from models.detection.darknet.layers import Reorg
from models.detection.darknet.network import Darknet
from models.detection.darknet.weights import load_weights
from models.image import decode, resize
from tests.models.detection.darknet.random_networks import HEAD, SMALL, network_of, noise
from tests.paths import SHARED, needs_shared

WEIGHTS = SHARED / "weights"
DOG = SHARED / "data" / "photos" / "dog.jpg"


def opencv(
    config: Path, weights: Path, picture: NDArray[np.uint8], names: list[str]
) -> list[NDArray[np.float32]]:
    net = cv2.dnn.readNetFromDarknet(str(config), str(weights))
    net.setInput(cv2.dnn.blobFromImage(picture, 1 / 255))
    return [net.forward(name) for name in names]


def compare_with_opencv(
    network: Darknet, config: Path, weights: Path, picture: NDArray[np.uint8], raw: str = "conv_{}"
) -> None:
    """Raw maps, and boxes and scores as decoded by OpenCV's region layer, which serves both kinds of head."""
    layers = network.config.layers
    with torch.inference_mode():
        maps = network.raw(torch.from_numpy(picture)[None])
        boxes, scores = network(torch.from_numpy(picture)[None])
    theirs = opencv(config, weights, picture, [raw.format(index) for index in network.inputs])
    for mine, other in zip(maps, theirs, strict=True):
        assert mine.std(dim=(2, 3)).mean() > 0.05  # it is the picture that is compared, not the biases
        np.testing.assert_allclose(mine.numpy(), other, rtol=0, atol=1e-3)

    heads = {cfg.Yolo: "yolo_{}", cfg.Region: "detection_out"}
    names = [heads[type(layer)].format(i) for i, layer in enumerate(layers) if type(layer) in heads]
    rows = np.concatenate(
        [found.reshape(-1, found.shape[-1]) for found in opencv(config, weights, picture, names)]
    )
    size = np.array([network.config.net.width, network.config.net.height] * 2)
    cx, cy, w, h = (rows[:, :4] * size).T
    expected = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1)
    np.testing.assert_allclose(boxes[0].numpy(), expected, rtol=1e-3, atol=1e-2)
    kept = rows[:, 5:] > 0  # OpenCV suppresses in [region] without a way to forbid it
    assert kept.mean() > 0.2
    np.testing.assert_allclose(scores[0].numpy()[kept], rows[:, 5:][kept], rtol=0, atol=1e-4)


@needs_shared
@pytest.mark.parametrize(
    ("name", "gain"),
    [("yolov2-tiny", 1.4), ("yolov3-tiny", 1.4), ("yolov3", 1.1), ("yolov4-tiny", 1.4), ("yolov4", 1.2)],
)
def test_published_networks_agree_with_opencv(name: str, gain: float, tmp_path: Path) -> None:
    """The whole topology, with an eighth of the filters and a small canvas that is no square."""
    text = (WEIGHTS / f"{name}.cfg").read_text()
    text = re.sub(r"(?m)^width *=.*", "width=128", re.sub(r"(?m)^height *=.*", "height=96", text))
    text = re.sub(r"(?m)^thresh *=.*", "thresh=0", text).replace(
        "[yolo]", "[yolo]\nthresh=0\nnms_threshold=0"
    )
    text = re.sub(r"(?m)^filters *= *(\d+)", lambda found: f"filters={_eighth(int(found[1]))}", text)
    config, weights = tmp_path / "a.cfg", tmp_path / "a.weights"
    config.write_text(text)
    network = network_of(text, weights, gain)
    compare_with_opencv(network, config, weights, noise(network)[0])


def _eighth(filters: int) -> int:
    return filters if filters in (255, 425) else filters // 8


def test_layers_of_other_detectors_agree_with_opencv(tmp_path: Path) -> None:
    """What the networks above lack: reorg, squeeze and excitation, swish, logistic, unequal shortcuts."""
    text = """[net]
width=64
height=32
[convolutional]
filters=8
size=3
pad=1
stride=2
activation=swish
[avgpool]
[convolutional]
filters=8
size=1
activation=logistic
[scale_channels]
from=0
[reorg]
stride=2
[convolutional]
filters=48
size=1
activation=mish
[shortcut]
from=4
activation=leaky
[convolutional]
filters=16
groups=4
size=3
padding=1
activation=leaky
[shortcut]
from=6
activation=linear
[maxpool]
size=3
stride=2
[convolutional]
filters=14
size=1
activation=logistic
[yolo]
mask=0,1
anchors=10,14, 23,27
classes=2
num=2
scale_x_y=2.0
new_coords=1
thresh=0
nms_threshold=0
"""
    config, weights = tmp_path / "a.cfg", tmp_path / "a.weights"
    config.write_text(text)
    network = network_of(text, weights, gain=2.0)
    compare_with_opencv(network, config, weights, noise(network)[0], raw="logistic_11")


@needs_shared
@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "yolo-fastest-1.1-xl"])
def test_real_weights_agree_with_opencv(name: str) -> None:
    network = Darknet(cfg.parse((WEIGHTS / f"{name}.cfg").read_text(), name)).eval()
    load_weights(network.convolutions(), WEIGHTS / f"{name}.weights")
    picture = resize(decode(DOG.read_bytes()).pixels, 320, 320)
    with torch.inference_mode():
        raw = network.raw(torch.from_numpy(picture)[None])
    names = [f"conv_{index}" for index in network.inputs]
    theirs = opencv(WEIGHTS / f"{name}.cfg", WEIGHTS / f"{name}.weights", picture, names)
    for mine, other in zip(raw, theirs, strict=True):
        np.testing.assert_allclose(mine.numpy(), other, rtol=0, atol=1e-3)


def test_heads_follow_the_formulas(tmp_path: Path) -> None:
    """`[yolo]`, `[yolo]` with new_coords and `[region]`, one cell at a time as `get_yolo_box` does it."""
    section = "anchors=10,14, 23,27\nclasses=2\nnum=2\n"
    route = "[convolutional]\nfilters=14\nstride=8\nactivation={}\n{}[route]\nlayers=0\n"
    text = "[net]\nwidth=48\nheight=32\n[convolutional]\nfilters=5\nactivation=relu\n"
    text += route.format("linear", "[yolo]\nscale_x_y=1.2\n" + section)
    text += route.format("logistic", "[yolo]\nnew_coords=1\nscale_x_y=2.0\n" + section)
    text += route.format("linear", "[region]\nsoftmax=1\n" + section.replace("10,14", "0.5,1.5"))
    network = network_of(text, tmp_path / "a.weights", gain=1.0)
    with torch.inference_mode():
        raw = network.raw(torch.from_numpy(noise(network)))
        boxes, scores = network(torch.from_numpy(noise(network)))
    found = iter(zip(boxes[0].tolist(), scores[0].tolist(), strict=True))

    def logistic(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    for kind, feature in zip(("yolo", "new", "region"), raw, strict=True):
        scale = {"yolo": 1.2, "new": 2.0, "region": 1.0}[kind]
        anchors = [(4, 12), (184, 216)] if kind == "region" else [(10, 14), (23, 27)]  # of 8 pixels: in cells
        assert feature.shape == (1, 14, 4, 6)
        for y, x, number in itertools.product(range(4), range(6), range(2)):
            tx, ty, tw, th, to, *classes = feature[0, 7 * number : 7 * number + 7, y, x].tolist()
            if kind == "new":
                w, h = (2 * tw) ** 2, (2 * th) ** 2
                expected = [to * value for value in classes]
            else:
                tx, ty, to = logistic(tx), logistic(ty), logistic(to)
                w, h = math.exp(tw), math.exp(th)
                total = sum(math.exp(value) for value in classes)
                softmax = [math.exp(value) / total for value in classes]
                expected = [to * p for p in (softmax if kind == "region" else map(logistic, classes))]
            w, h = w * anchors[number][0], h * anchors[number][1]
            cx, cy = (x + tx * scale - (scale - 1) / 2) * 8, (y + ty * scale - (scale - 1) / 2) * 8
            box, score = next(found)
            corners = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
            np.testing.assert_allclose(box, corners, rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(score, expected, rtol=1e-4)
    assert next(found, None) is None


@pytest.mark.parametrize(("size", "stride"), [(2, 1), (2, 2), (3, 1), (3, 2), (5, 1), (9, 1), (1, 2), (4, 3)])
@pytest.mark.parametrize("side", [8, 9])
def test_max_pool_pads_as_darknet_does(size: int, stride: int, side: int) -> None:
    """Against `forward_maxpool_layer`, which skips what lies outside."""
    section = f"[maxpool]\nsize={size}\nstride={stride}\n"
    config = cfg.parse(f"[net]\nwidth={side}\nheight={side}\n{section}[route]\nlayers=-1\n{HEAD}", "a.cfg")
    module = Darknet(config).layers[0]
    x = torch.randn(2, 3, side, side)
    out = (side - 1) // stride + 1
    expected = torch.full((2, 3, out, out), -torch.inf)
    for row in range(out):
        for column in range(out):
            top, left = row * stride - (size - 1) // 2, column * stride - (size - 1) // 2
            window = x[:, :, max(top, 0) : top + size, max(left, 0) : left + size]
            expected[:, :, row, column] = window.amax(dim=(2, 3))
    assert torch.equal(module(x), expected)


def test_dilation_widens_the_padding_too() -> None:
    section = "[convolutional]\nfilters=4\nsize=3\npad=1\ndilation=2\n"
    network = Darknet(cfg.parse(f"[net]\nwidth=32\nheight=64\n{section}{HEAD}", "a.cfg"))
    assert network.layers[0](torch.zeros(1, 3, 64, 32, device="meta")).shape == (1, 4, 64, 32)


def test_reorg_is_darknets() -> None:
    """Against `reorg_cpu`, index by index."""
    c, h, w, s = 8, 4, 6, 2
    x = torch.randn(1, c, h, w)
    flat, expected = x.flatten(), torch.empty(c * h * w)
    for k in range(c):
        for j in range(h):
            for i in range(w):
                offset, c2 = divmod(k, c // (s * s))
                w2, h2 = i * s + offset % s, j * s + offset // s
                expected[i + w * (j + h * k)] = flat[w2 + w * s * (h2 + h * s * c2)]
    assert torch.equal(Reorg(s)(x), expected.reshape(1, c * s * s, h // s, w // s))


def test_shortcut_adds_several_and_crops_or_fills_channels(tmp_path: Path) -> None:
    text = (
        SMALL
        + "[convolutional]\nfilters=9\n[convolutional]\nfilters=8\n[shortcut]\nfrom=-3,1\nactivation=relu\n"
    )
    network = network_of(text + HEAD, tmp_path / "a.weights")
    x, seven, nine = torch.randn(1, 8, 3, 3), torch.randn(1, 7, 3, 3), torch.randn(1, 9, 3, 3)
    expected = x + nine[:, :8]
    expected[:, :7] += seven
    torch.testing.assert_close(network.layers[3](x, seven, nine), expected.relu())
    network(torch.zeros(1, 32, 64, 3, dtype=torch.uint8))


def test_the_network_exports_and_stays_finite_for_any_weights(tmp_path: Path) -> None:
    network = network_of(SMALL + "[maxpool]\nsize=2\nstride=1\n" + HEAD, tmp_path / "a.weights", gain=1e4)
    example = torch.from_numpy(noise(network, 2))
    program = torch.export.export(network, (example,))
    for mine, exported in zip(network(example), program.module()(example), strict=True):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine, exported)
    half = network.half()(example)
    assert all(isinstance(output, Tensor) and output.dtype == torch.float32 for output in half)
