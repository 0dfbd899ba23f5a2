"""EfficientDet-Lite0: 80 classes of COCO on the backbone of EfficientNet-Lite0.

Tan, Pang and Le, "EfficientDet: Scalable and Efficient Object Detection" (CVPR 2020,
https://arxiv.org/abs/1911.09070); the Lite variant (https://github.com/google/automl, efficientdet) has ReLU6
for swish, plain sums for weighted ones and no squeeze-and-excitation. The weights come from a TensorFlow Lite
file whose batch norms are folded into its convolutions; `convert` reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.efficientnet_lite import MEAN, PYRAMID_CHANNELS, SCALE, Backbone, ConvNorm
from models.boxes import CANDIDATES
from models.checkpoint import load_state, read_state
from models.detection.coco import IDS
from models.detection.tflite import Convolution, read_convolutions
from models.errors import WeightsError

CHANNELS = 64
CELLS = 3
LEVELS = 5  # strides 8, 16, 32, 64 and 128
REPEATS = 3  # of a head's convolutions, before the one that predicts
OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
ASPECTS = (1.0, 2.0, 0.5)  # width / height
SHAPES = len(OCTAVES) * len(ASPECTS)  # anchors of a cell
ANCHOR_SCALE = 3.0  # an anchor's side in strides, at the first octave
_MAX_LOG_SIZE = 8.0  # of a box in anchors: e ** 8 is beyond any canvas


class Node(nn.Module):
    """What follows the sum of a node's inputs: ReLU6, a depthwise 3 x 3 and a pointwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False)
        self.pointwise = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Tensor[N, 64, h, w] -> the same shape."""
        outputs: Tensor = self.pointwise(self.depthwise(F.relu6(inputs)))
        return outputs


class Cell(nn.Module):
    """A BiFPN: mixes the five levels, coarse into fine and back.

    Args:
        inputs: channels of the three finest levels where they are the backbone's; each path then has its own
            1 x 1 convolution of them. Nothing: all levels have `CHANNELS` already.
    """

    def __init__(self, inputs: Sequence[int] = ()) -> None:
        super().__init__()
        rest = LEVELS - len(inputs)

        def laterals() -> list[nn.Module]:
            return [
                *(nn.Conv2d(width, CHANNELS, 1) for width in inputs),
                *(nn.Identity() for _ in range(rest)),
            ]

        self.down_inputs = nn.ModuleList(laterals()[:-1])  # of the levels 0 to 3
        self.down = nn.ModuleList(Node() for _ in range(LEVELS - 1))
        self.up_inputs = nn.ModuleList(laterals()[1:])  # of the levels 1 to 4
        self.up = nn.ModuleList(Node() for _ in range(LEVELS - 1))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Five maps, fine to coarse -> as many of the same sizes, Tensor[N, 64, h, w]."""
        tops = [maps[-1]]
        for given, lateral, node in reversed(list(zip(maps[:-1], self.down_inputs, self.down, strict=True))):
            wide = lateral(given)
            tops.insert(0, node(wide + F.interpolate(tops[0], wide.shape[2:], mode="nearest")))
        outputs = [tops[0]]
        for level, (lateral, node) in enumerate(zip(self.up_inputs, self.up, strict=True), start=1):
            total = lateral(maps[level]) + _halved(outputs[-1])
            if level < LEVELS - 1:  # the coarsest has no node on the way down
                total = total + tops[level]
            outputs.append(node(total))
        return outputs


class Head(nn.Module):
    """Predicts from each level; its depthwise convolutions are the same at all, its pointwise ones are not.

    Args:
        outputs: channels.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.ModuleList(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False)
            for _ in range(REPEATS + 1)
        )
        self.pointwise = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 1) for _ in range(LEVELS * REPEATS))
        self.predict = nn.Conv2d(CHANNELS, outputs, 1)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Tensor[N, 64, h, w] a level -> Tensor[N, outputs, h, w] a level."""
        *several, last = self.depthwise
        found = []
        for level, hidden in enumerate(maps):
            for depthwise, pointwise in zip(several, self.pointwise[level * REPEATS :], strict=False):
                hidden = F.relu6(pointwise(depthwise(hidden)))
            found.append(self.predict(last(hidden)))
        return found


class EfficientDet(nn.Module):
    """The network.

    Args:
        classes: logits of an anchor.
    """

    def __init__(self, classes: int = IDS) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.coarser = nn.Conv2d(PYRAMID_CHANNELS[-1], CHANNELS, 1)  # pooled, it is the level of stride 64
        self.cells = nn.ModuleList(Cell(() if index else PYRAMID_CHANNELS) for index in range(CELLS))
        self.boxes = Head(4 * SHAPES)
        self.classes = Head(classes * SHAPES)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """float Tensor[N, 3, H, W], (byte - 127) / 128 -> of each level the boxes, then the logits.

        Boxes are Tensor[N, 9 * 4, h, w], (y, x, height, width) relative to each anchor, logits
        Tensor[N, 9 * classes, h, w].
        """
        maps: list[Tensor] = self.backbone(images)
        maps.append(_halved(self.coarser(maps[-1])))
        maps.append(_halved(maps[-1]))
        for cell in self.cells:
            maps = cell(maps)
        return self.boxes(maps), self.classes(maps)


def _halved(map_: Tensor) -> Tensor:
    """Max pooling of 3 x 3 with a stride of 2 and TensorFlow's padding, more at the end."""
    sides = [max((-(-side // 2) - 1) * 2 + 3 - side, 0) for side in (map_.shape[3], map_.shape[2])]
    padding = [part for total in sides for part in (total // 2, total - total // 2)]
    return F.max_pool2d(F.pad(map_, padding, value=float("-inf")), 3, 2)


class Detector(nn.Module):
    """What is served: normalise, `EfficientDet`, the best candidates.

    The candidates are the anchors of the highest logits; boxes, sigmoids and suppression are of these few.

    Args:
        network: evaluated.
        candidates: of an image; no canvas may have fewer anchors.
    """

    whole = ("shapes",)
    shapes: Tensor

    def __init__(self, network: EfficientDet, candidates: int = CANDIDATES) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("shapes", anchor_shapes(), persistent=False)
        self.candidates = candidates

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The best candidates of a batch, at any canvas.

        Args:
            images: uint8 Tensor[N, H, W, 3], RGB.

        Returns:
            boxes Tensor[N, K, 4], xyxy canvas pixels, and scores Tensor[N, K, C].
        """
        pixels = images.permute(0, 3, 1, 2).to(self.network.coarser.weight.dtype)
        boxes, logits = self.network((pixels - MEAN) / SCALE)
        grids = [map_.shape[2:] for map_ in boxes]
        anchors = make_anchors(images.shape[1], images.shape[2], grids, self.shapes)
        deltas, rows = _rows(boxes, 4), _rows(logits, logits[0].shape[1] // SHAPES)
        _, best = rows.amax(2).topk(self.candidates, dim=1)
        chosen = torch.gather(rows, 1, best[..., None].expand(-1, -1, rows.shape[2])).float()
        deltas = torch.gather(deltas, 1, best[..., None].expand(-1, -1, 4)).float()
        return decode(deltas, anchors[best]), chosen.sigmoid()


def _rows(levels: Sequence[Tensor], width: int) -> Tensor:
    """Tensor[N, 9 * width, h, w] a level -> Tensor[N, A, width], in the order of `make_anchors`."""
    return torch.cat(
        [level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, width) for level in levels], dim=1
    )


def anchor_shapes() -> Tensor:
    """Widths and heights of a cell's anchors in cells, by octave and aspect: float32 Tensor[9, 2]."""
    rows = [(octave * aspect**0.5, octave / aspect**0.5) for octave in OCTAVES for aspect in ASPECTS]
    return ANCHOR_SCALE * torch.tensor(rows)


def make_anchors(height: int, width: int, grids: Sequence[Sequence[int]], shapes: Tensor) -> Tensor:
    """The anchors of a canvas, float32 Tensor[A, 4]: centre x, centre y, width, height, canvas pixels.

    By level, row, column and shape. All is computed from the sizes, so a trace made with one canvas is right
    for every other; an executor that knows the sizes computes it once. Nothing comes from the host's memory,
    which a CUDA graph could not have.

    Args:
        height, width: of the canvas.
        grids: rows and columns of cells, by level. An anchor is relative to its cell, which need not be the
            stride: three cells share 320 pixels.
        shapes: of `anchor_shapes`, on the device to use.
    """
    found = []
    for rows, columns in grids:
        cell_width, cell_height = width / columns, height / rows
        x = (torch.arange(columns, dtype=torch.float32, device=shapes.device) + 0.5) * cell_width
        y = (torch.arange(rows, dtype=torch.float32, device=shapes.device) + 0.5) * cell_height
        w, h = shapes[:, 0].float() * cell_width, shapes[:, 1].float() * cell_height
        parts = (x[None, :, None], y[:, None, None], w[None, None], h[None, None])
        level = torch.stack([part.expand(rows, columns, len(shapes)) for part in parts], dim=-1)
        found.append(level.reshape(-1, 4))
    return torch.cat(found)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Tensor[..., 4], (y, x, height, width) relative to anchors Tensor[..., 4] -> xyxy Tensor[..., 4]."""
    y, x, height, width = deltas.unbind(-1)
    centre_x, centre_y, anchor_width, anchor_height = anchors.unbind(-1)
    x, y = x * anchor_width + centre_x, y * anchor_height + centre_y
    width = width.clamp(max=_MAX_LOG_SIZE).exp() * anchor_width / 2
    height = height.clamp(max=_MAX_LOG_SIZE).exp() * anchor_height / 2
    return torch.stack((x - width, y - height, x + width, y + height), dim=-1)


def convert(source: Path, target: Path) -> None:
    """Writes the TensorFlow Lite file as safetensors, byte for byte the same each time.

    Raises:
        WeightsError: the file does not parse, or is another network.
    """
    from safetensors.torch import save_file

    save_file(
        {name: tensor.contiguous() for name, tensor in read_tflite(source).state_dict().items()}, target
    )


def read_tflite(path: Path) -> EfficientDet:
    """The network, with all 90 ids of COCO, and the weights of ``efficientdet-lite0-f32.tflite``.

    Raises:
        WeightsError: the file does not parse, or is another network.
    """
    network, layers = EfficientDet(), read_convolutions(path)
    try:
        with torch.no_grad():
            for name, layer in zip(_order(network), layers, strict=True):
                _fill(network.get_submodule(name), layer)
    except ValueError as error:
        raise WeightsError(f"{path.name} is not EfficientDet-Lite0: {error}") from error
    return network.eval()


def _order(network: EfficientDet) -> Iterator[str]:
    """The names of all convolutions in the order of the file; what levels share comes once for each.

    One of the backbone is the `ConvNorm` that holds it.
    """
    for name, module in network.backbone.named_modules(prefix="backbone"):
        if isinstance(module, ConvNorm):
            yield name
    yield from ("cells.0.down_inputs.2", "cells.0.up_inputs.1", "coarser")
    before = {
        "down.1": ["cells.0.down_inputs.1"],
        "down.0": ["cells.0.up_inputs.0", "cells.0.down_inputs.0"],
    }
    nodes = ["down.3", "down.2", "down.1", "down.0", "up.0", "up.1", "up.2", "up.3"]
    for cell in range(CELLS):
        for place, node in enumerate(nodes):
            yield from before.pop(node, ())
            yield from (f"cells.{cell}.{node}.depthwise", f"cells.{cell}.{node}.pointwise")
            level = place - nodes.index("down.0")  # this node's output is the level's last
            if cell == CELLS - 1 and level >= 0:
                for head in ("boxes", "classes"):
                    for repeat in range(REPEATS):
                        yield from (
                            f"{head}.depthwise.{repeat}",
                            f"{head}.pointwise.{level * REPEATS + repeat}",
                        )
                    yield from (f"{head}.depthwise.{REPEATS}", f"{head}.predict")


def _fill(module: nn.Module, layer: Convolution) -> None:
    convolution = module.conv if isinstance(module, ConvNorm) else module
    if not isinstance(convolution, nn.Conv2d) or convolution.weight.shape != layer.weight.shape:
        raise ValueError(f"a convolution of {layer.weight.shape} for {convolution}")
    bias = torch.from_numpy(layer.bias)
    convolution.weight.copy_(torch.from_numpy(layer.weight))
    if isinstance(module, ConvNorm):  # its batch norm then only adds
        variance = torch.full_like(bias, 1 - module.norm.eps)
        module.norm.load_state_dict({"bias": bias, "running_var": variance}, strict=False)
    elif convolution.bias is not None:
        convolution.bias.copy_(bias)
    elif bias.any():
        raise ValueError(f"a bias for {convolution}")


def load(path: Path, ids: Sequence[int] = range(IDS)) -> EfficientDet:
    """Reads what `convert` wrote: float32, in eval mode.

    Args:
        path: of the file.
        ids: the classes to keep, by their index in the file.

    Raises:
        WeightsError: the file is no such network.
    """
    state = read_state(path)
    rows = torch.arange(SHAPES * IDS).view(SHAPES, IDS)[:, list(ids)].flatten()
    for name in ("classes.predict.weight", "classes.predict.bias"):
        if name in state and len(state[name]) == SHAPES * IDS:
            state[name] = state[name][rows]
    return load_state(EfficientDet(len(ids)), state, path.name)
