"""A YOLO: the backbone of EfficientNet-Lite0, a small feature pyramid, three scales with three anchors each.

The boxes are coded as in YOLOv5 (https://github.com/ultralytics/yolov5), whose sigmoids reach over the cell's
edges; the pyramid goes down and up again as in PANet (Liu et al., CVPR 2018, https://arxiv.org/abs/1803.01534),
with depthwise separable convolutions. The weights are made by `models/training/yolo/`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert

from models.backbones.efficientnet_lite import MEAN, PYRAMID_CHANNELS, SCALE, Backbone
from models.checkpoint import load_state, read_state
from models.detection.yolo_config import STRIDES, YoloConfig, read_config


class Conv(nn.Sequential):
    """Convolution, batch norm, SiLU; keeps the size, or halves it with a stride of 2."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
            nn.SiLU(inplace=True),
        )


class Separable(nn.Sequential):
    """A depthwise 3 x 3 and a pointwise convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(Conv(inputs, inputs, 3, groups=inputs), Conv(inputs, outputs))


class Neck(nn.Module):
    """Mixes three maps: coarse into fine, then fine into coarse; all outputs are `channels` wide."""

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(Conv(width, channels) for width in inputs)
        self.down = nn.ModuleList(Separable(2 * channels, channels) for _ in inputs[1:])
        self.shrink = nn.ModuleList(
            Conv(channels, channels, 3, stride=2, groups=channels) for _ in inputs[1:]
        )
        self.up = nn.ModuleList(Separable(2 * channels, channels) for _ in inputs[1:])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps from fine to coarse, each half of the one before -> as many, of the same sizes."""
        laterals = [layer(map_) for layer, map_ in zip(self.lateral, maps, strict=True)]
        tops = [laterals[-1]]
        for layer, lateral in zip(self.down, reversed(laterals[:-1]), strict=True):
            enlarged = F.interpolate(tops[0], scale_factor=2.0, mode="nearest")
            tops.insert(0, layer(torch.cat((lateral, enlarged), dim=1)))
        outputs = [tops[0]]
        for shrink, layer, top in zip(self.shrink, self.up, tops[1:], strict=True):
            outputs.append(layer(torch.cat((top, shrink(outputs[-1])), dim=1)))
        return outputs


class Yolo(nn.Module):
    """The network; `forward` is for training, `Detector` is served."""

    whole = ("anchors",)
    anchors: Tensor

    def __init__(self, config: YoloConfig) -> None:
        super().__init__()
        self.config = config
        classes, shapes = len(config.labels), len(config.anchors[0])
        # one class needs no logit of its own: objectness is enough
        self.outputs = 5 + (classes if classes > 1 else 0)
        self.register_buffer("anchors", torch.tensor(config.anchors), persistent=False)  # [3, shapes, 2]
        self.backbone = Backbone()
        self.neck = Neck(PYRAMID_CHANNELS, config.channels)
        self.heads = nn.ModuleList(
            nn.Sequential(
                Separable(config.channels, config.channels),
                Separable(config.channels, config.channels),
                nn.Conv2d(config.channels, shapes * self.outputs, 1),
            )
            for _ in STRIDES
        )
        for head, stride in zip(self.heads, STRIDES, strict=True):  # start from what is likely: few objects
            bias = head[-1].bias.detach().view(shapes, self.outputs)  # type: ignore[index]
            bias[:, 4] = math.log(8 / (config.size / stride) ** 2)
            bias[:, 5:] = math.log(0.6 / max(classes - 0.99, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """float Tensor[N, 3, H, W], (byte - 127) / 128 -> per stride logits Tensor[N, h, w, shapes, outputs].

        The last dimension is x, y, w, h, objectness and, of several classes, one logit each.
        """
        return self.predict(self.features(images))

    def features(self, images: Tensor) -> list[Tensor]:
        """The pyramid that the heads read: per stride Tensor[N, channels, h, w]."""
        maps: list[Tensor] = self.neck(self.backbone(images))
        return maps

    def predict(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps of `features` -> logits as `forward` gives them."""
        raw = [head(map_) for head, map_ in zip(self.heads, features, strict=True)]
        return [
            map_.permute(0, 2, 3, 1).reshape(map_.shape[0], map_.shape[2], map_.shape[3], -1, self.outputs)
            for map_ in raw
        ]

    def decode(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits of `forward` -> boxes Tensor[N, A, 4], xyxy, canvas pixels, and scores Tensor[N, A, C]."""
        boxes, scores = [], []
        # a half has too few bits for coordinates
        whole = [map_.float() for map_ in maps]
        for map_, stride, anchors in zip(whole, STRIDES, self.anchors, strict=True):
            count, height, width = map_.shape[:3]
            rows = (
                torch.arange(height, device=map_.device, dtype=map_.dtype).view(-1, 1).expand(height, width)
            )
            columns = torch.arange(width, device=map_.device, dtype=map_.dtype).expand(height, width)
            cells = torch.stack((columns, rows), dim=-1)[:, :, None]  # [h, w, 1, 2]
            likely = map_.sigmoid()
            centres = (2 * likely[..., :2] - 0.5 + cells) * stride
            sizes = (2 * likely[..., 2:4]).square() * anchors
            boxes.append(torch.cat((centres, sizes), dim=-1).view(count, -1, 4))
            objects = likely[..., 4:5]
            scores.append((objects * likely[..., 5:] if self.outputs > 5 else objects).flatten(1, 3))
        return box_convert(torch.cat(boxes, dim=1), "cxcywh", "xyxy"), torch.cat(scores, dim=1)


class Detector(nn.Module):
    """What is served: normalise, `Yolo`, decode."""

    def __init__(self, network: Yolo) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 Tensor[N, H, W, 3], RGB, H and W multiples of 32 -> what `Yolo.decode` gives."""
        pixels = images.permute(0, 3, 1, 2).to(self.network.backbone.stem.conv.weight.dtype)
        return self.network.decode(self.network((pixels - MEAN) / SCALE))


def save(network: Yolo, path: Path) -> None:
    """Writes a network as safetensors, halved to float16, its configuration in the metadata."""
    from safetensors.torch import save_file

    state = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(state, path, metadata={"config": network.config.dump()})


def load(path: Path) -> Yolo:
    """Reads what `save` wrote: float32, in eval mode.

    Raises:
        WeightsError: the file is no such network.
    """
    # the weights that this project published have an older name of the backbone
    state = {re.sub(r"^trunk\.", "backbone.", name): tensor for name, tensor in read_state(path).items()}
    return load_state(Yolo(read_config(path)), state, path.name)
