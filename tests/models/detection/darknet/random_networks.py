"""Darknet networks with random weights, for the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.detection.darknet import cfg as cfg
from models.detection.darknet.network import Darknet
from models.detection.darknet.weights import load_weights

SMALL = (
    "[net]\nwidth=64\nheight=32\n[convolutional]\nfilters=7\nsize=3\nbatch_normalize=1\nactivation=leaky\n"
)
HEAD = "[convolutional]\nfilters=6\nactivation=linear\n[yolo]\nanchors=10,14\nclasses=1\nnum=1\n"


def write_weights(network: Darknet, path: Path, gain: float = 1.0, version: tuple[int, int] = (0, 2)) -> None:
    """Random numbers in the format's places, small enough for the activations to stay sane."""
    rng = np.random.default_rng(0)
    with path.open("wb") as stream:
        np.array([*version, 5], "<i4").tofile(stream)
        np.array([32013312], "<i8" if version >= (0, 2) else "<i4").tofile(stream)
        for section, convolution in network.convolutions():
            n, kernel = section.filters, convolution.weight.shape
            rng.normal(0, 0.1, n).astype("<f4").tofile(stream)
            if section.batch_normalize:
                rng.uniform(0.6, 1.2, n).astype("<f4").tofile(stream)
                rng.normal(0, 0.1, n).astype("<f4").tofile(stream)
                rng.uniform(0.5, 1.5, n).astype("<f4").tofile(stream)
            rng.normal(0, gain * kernel[1:].numel() ** -0.5, kernel.numel()).astype("<f4").tofile(stream)


def network_of(text: str, weights: Path, gain: float = 1.0) -> Darknet:
    """The network of a cfg with random weights, which are left in the file `weights`."""
    network = Darknet(cfg.parse(text, "a.cfg")).eval()
    write_weights(network, weights, gain)
    load_weights(network.convolutions(), weights)
    return network


def noise(network: Darknet, count: int = 1) -> NDArray[np.uint8]:
    net = network.config.net
    return np.random.default_rng(1).integers(0, 256, (count, net.height, net.width, 3), dtype=np.uint8)
