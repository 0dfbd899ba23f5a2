"""torchvision's Faster R-CNN (Ren et al., https://arxiv.org/abs/1506.01497) in the pipeline of all detectors.

torchvision's module takes a list of pictures of any size, thresholds and suppresses inside, and answers with
a list of dicts. Here its parts are run on one canvas, and the best candidates of every picture come out as
tensors of one shape, so that each request's own thresholds hold and `DetectorPipeline` does the suppression.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image

from models.detection.pipeline import DetectorPipeline
from models.errors import WeightsError
from models.pipeline import Card
from models.weights import Entry

# Architecture -> side of the square canvas. torchvision brings the shorter side to 320 or 800 pixels; so does
# this one for pictures of 4 : 3, and the strides of the feature pyramid need multiples of 32.
ARCHITECTURES: Final = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": 448,
    "fasterrcnn_mobilenet_v3_large_fpn": 1088,
    "fasterrcnn_resnet50_fpn": 1088,
    "fasterrcnn_resnet50_fpn_v2": 1088,
}
CANDIDATES: Final = 1000
_MIN_SIDE = 1e-2  # `RoIHeads.postprocess_detections` drops smaller boxes


class FasterRCNN(nn.Module):
    """The candidates of a batch, before any threshold.

    Args:
        network: torchvision's model; its own thresholds are not used, those of its proposals are.
        columns: which of its classes are wanted, in the order of the labels (0 is the background).
    """

    columns: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, network: Any, columns: list[int]) -> None:
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = network.backbone, network.rpn, network.roi_heads
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(network.transform, f"image_{name}")).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The best pairs of a box and a class.

        Args:
            images: uint8 Tensor[N, H, W, 3], RGB.

        Returns:
            boxes Tensor[N, 1000, 4], xyxy canvas pixels within the canvas, and scores Tensor[N, 1000, C], 0
            but for the one class that a box is for (a region has a box of its own for every class).
        """
        n, height, width, _ = images.shape
        x = (images.permute(0, 3, 1, 2) / 255 - self.mean) / self.std
        sizes = [(height, width)] * n
        features = {name: level.float() for name, level in self.backbone(x).items()}
        # bfloat16 has too few bits for coordinates: an executor's autocast ends at the backbone
        with torch.autocast(images.device.type, enabled=False):
            proposals, _ = self.rpn(ImageList(x, sizes), features)
            pooled = self.roi_heads.box_roi_pool(features, proposals, sizes)
            logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        boxes = clip_boxes_to_image(self.roi_heads.box_coder.decode(deltas, proposals), (height, width))
        scores = logits.softmax(-1)[:, self.columns]  # [sum of proposals, C]
        boxes = boxes[:, self.columns]  # [sum of proposals, C, 4]
        sides = boxes[..., 2:] - boxes[..., :2]
        scores = scores * (sides >= _MIN_SIDE).all(-1)

        counts = [len(found) for found in proposals]
        padded_boxes = pad_sequence(boxes.split(counts), batch_first=True).flatten(1, 2)  # [N, P * C, 4]
        padded_scores = pad_sequence(scores.split(counts), batch_first=True).flatten(1)
        missing = max(0, CANDIDATES - padded_scores.shape[1])
        padded_boxes = nn.functional.pad(padded_boxes, (0, 0, 0, missing))
        padded_scores = nn.functional.pad(padded_scores, (0, missing))
        best, order = padded_scores.topk(CANDIDATES, dim=1)
        chosen = padded_boxes.gather(1, order[..., None].expand(-1, -1, 4))
        classes = len(self.columns)
        spread = best.new_zeros(n, CANDIDATES, classes)
        return chosen, spread.scatter_(2, (order % classes)[..., None], best[..., None])


class RCNNPipeline(DetectorPipeline):
    """As every detector, but for its module, whose number of proposals depends on the picture.

    `exportable` is False: the module cannot be traced, exported or captured in a CUDA graph, only be run by
    eager PyTorch. Modules of pipelines without the attribute can.
    """

    exportable: Final = False


_OPTIONS = {"arch", "size", "batch_norm_eps", "score_threshold", "iou_threshold"}


def build(entry: Entry, files: Mapping[str, Path]) -> RCNNPipeline:
    """Builds one of ARCHITECTURES (`registry.BUILDERS`).

    Args:
        entry: options `arch` (required, one of ARCHITECTURES); `size`, side of the canvas;
            `batch_norm_eps`, which torchvision sets to 0 for `FasterRCNN_ResNet50_FPN_Weights.COCO_V1` (1e-5
            else); `score_threshold` and `iou_threshold`, what a request that names none gets (both 0.5).
        files: `weights`, a state dict as `.safetensors` or of `torch.save`; optional `labels`, class names
            without the background, one a line (without it: the 80 of COCO, placed as torchvision does).

    Raises:
        WeightsError: an option is wrong or a file does not fit the architecture.
    """
    if unknown := entry.options.keys() - _OPTIONS:
        raise _wrong(entry, f"unknown options {sorted(unknown)}; known: {sorted(_OPTIONS)}")
    name = entry.options.get("arch")
    if name not in ARCHITECTURES:
        raise _wrong(entry, f"options.arch is {name!r}, none of {', '.join(ARCHITECTURES)}")
    size = entry.options.get("size", ARCHITECTURES[name])
    if not isinstance(size, int) or size % 32 or not 32 <= size <= 2048:
        raise _wrong(entry, f"options.size is {size!r}, no multiple of 32 up to 2048")
    names = _labels(files.get("labels"))
    network = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=len(names))
    state = _state(files["weights"])
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{files['weights'].name}: no weights of {name}: {error}") from error
    if (eps := entry.options.get("batch_norm_eps")) is not None:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = _fraction(entry, "batch_norm_eps", eps)
    columns = [index for index, label in enumerate(names) if label not in ("__background__", "N/A")]
    card = Card(
        name=entry.name,
        task=entry.task,
        licence=entry.licence,
        sha256=entry.files["weights"].sha256,
        labels=tuple(names[index] for index in columns),
        input=(size, size),
        details={"arch": name},
    )
    return RCNNPipeline(
        card,
        FasterRCNN(network, columns),
        score_threshold=_fraction(entry, "score_threshold", entry.options.get("score_threshold", 0.5)),
        iou_threshold=_fraction(entry, "iou_threshold", entry.options.get("iou_threshold", 0.5)),
    )


def _labels(path: Path | None) -> list[str]:
    if path is None:
        weights = detection.FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1
        return list(weights.meta["categories"])
    lines = path.read_text(encoding="utf-8").split("\n")
    return ["__background__", *(line.strip() for line in lines if line.strip())]


def _state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path.name}: unreadable: {error}") from error
    if not isinstance(state, dict):
        raise WeightsError(f"{path.name}: holds a {type(state).__name__}, not a state dict")
    return state


def _fraction(entry: Entry, key: str, value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise _wrong(entry, f"options.{key} is {value!r}, not from 0 to 1")
    return value


def _wrong(entry: Entry, what: str) -> WeightsError:
    return WeightsError(f"model {entry.name!r}: {what}")
