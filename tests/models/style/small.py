"""Small things for the tests of style transfer: a backbone without a download, a network, pictures."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import nn

from models.backbones.efficientnet_lite import Backbone
from models.image import Image, Pixels, encode
from models.pipeline import Style
from models.style.config import StyleConfig
from models.style.transfer import StyleNetwork

STYLES = (
    Style("dots", "Dots", "Unknown", encode(np.full((20, 30, 3), 90, np.uint8), "jpeg")),
    Style("lines", "Lines"),
    Style("waves", "Waves", "Somebody"),
)


def random_backbone(seed: int = 0) -> Backbone:
    """A backbone of random weights whose features neither vanish nor explode."""
    torch.manual_seed(seed)
    backbone = Backbone().eval()
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return backbone


def random_network(seed: int = 0) -> StyleNetwork:
    """A narrow network whose three styles differ."""
    torch.manual_seed(seed)
    network = StyleNetwork(StyleConfig(STYLES, (8, 12), 1)).eval()
    with torch.no_grad():
        network.styles.add_(0.5 * torch.randn_like(network.styles))
        for parameter in network.parameters():  # values that float16 holds
            parameter.copy_(parameter.half().float())
    return network


def picture(height: int, width: int, seed: int = 0) -> Pixels:
    """Smooth blobs of colour."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (max(2, height // 12), max(2, width // 12), 3)).astype(np.uint8)
    pixels: Pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return pixels


def image(height: int, width: int, seed: int = 0) -> Image:
    """`picture` as a decoded file."""
    return Image(picture(height, width, seed), width, height)
