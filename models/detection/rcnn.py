"""torchvision's Faster R-CNN (Ren et al., https://arxiv.org/abs/1506.01497) in the pipeline of all detectors.

torchvision's module takes a list of images of any size, thresholds and suppresses inside, and answers with
a list of dicts. Here its parts are run on one canvas, and the best candidates of every image come out as
tensors of one shape, so that each request's own thresholds hold and `DetectorPipeline` does the suppression.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image

from models.boxes import CANDIDATES
from models.checkpoint import load_state, read_labels, read_state
from models.detection.pipeline import DetectorOptions, DetectorPipeline
from models.options import check_range, read_options
from models.pipeline import Kind
from models.weights import Entry

# Architecture -> side of the square canvas. torchvision brings the shorter side to 320 or 800 pixels; so does
# this one for images of 4 : 3, and the strides of the feature pyramid need multiples of 32.
ARCHITECTURES: Final = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": 448,
    "fasterrcnn_mobilenet_v3_large_fpn": 1088,
    "fasterrcnn_resnet50_fpn": 1088,
    "fasterrcnn_resnet50_fpn_v2": 1088,
}
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


@dataclass(frozen=True)
class RCNNOptions(DetectorOptions):
    """Options of the builder, besides those of all detectors (both thresholds 0.5).

    Attributes:
        arch: one of ARCHITECTURES; required.
        size: side of the canvas, a multiple of 32 up to 2048; None: as ARCHITECTURES has it.
        batch_norm_eps: torchvision sets it to 0 for `FasterRCNN_ResNet50_FPN_Weights.COCO_V1`; None: 1e-5.

    Raises:
        ValueError: a value out of its range.
    """

    score_threshold: float = 0.5
    arch: str = ""
    size: int | None = None
    batch_norm_eps: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.arch not in ARCHITECTURES:
            raise ValueError(f"options.arch is {self.arch!r}, none of {', '.join(ARCHITECTURES)}")
        if self.size is not None and (self.size % 32 or not 32 <= self.size <= 2048):
            raise ValueError(f"options.size is {self.size!r}, no multiple of 32 up to 2048")
        if self.batch_norm_eps is not None:
            check_range("batch_norm_eps", self.batch_norm_eps, 0, 1)


def build(entry: Entry, files: Mapping[str, Path]) -> DetectorPipeline:
    """The builder ``torchvision_rcnn``; options as in `RCNNOptions`.

    Files:
        weights: a state dict as `.safetensors` or of `torch.save`.
        labels (optional): class names without the background, one a line; without it the 80 of COCO, placed
            as torchvision does.

    Raises:
        WeightsError: an option is wrong or a file does not fit the architecture.
    """
    options = read_options(RCNNOptions, entry.options)
    name = options.arch
    size = ARCHITECTURES[name] if options.size is None else options.size
    names = _labels(files.get("labels"))
    network = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=len(names))
    load_state(network, read_state(files["weights"]), files["weights"].name, name=name)
    if options.batch_norm_eps is not None:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = options.batch_norm_eps
    columns = [index for index, label in enumerate(names) if label not in ("__background__", "N/A")]
    card = entry.card(
        Kind.DETECT,
        labels=[names[index] for index in columns],
        input=(size, size),
        details={"arch": name},
    )
    pipeline = DetectorPipeline(card, lambda: FasterRCNN(network, columns), options)
    pipeline.exportable = False  # the number of proposals depends on the image: only eager PyTorch runs it
    return pipeline


def _labels(path: Path | None) -> list[str]:
    if path is None:
        weights = detection.FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1
        return list(weights.meta["categories"])
    return ["__background__", *read_labels(path)]
