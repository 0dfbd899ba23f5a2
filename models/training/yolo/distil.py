"""Distillation: a detector trained on many more images is the teacher, this project's YOLO the student.

Two losses, both of Hinton et al., "Distilling the Knowledge in a Neural Network"
(https://arxiv.org/abs/1503.02531), as Chen et al. adapted them to detectors (NeurIPS 2017, "Learning
Efficient Object Detection Models with Knowledge Distillation"):

- `soften`: a labelled box gets a soft target from label and teacher, against overfitting to hard examples;
  boxes that the teacher alone finds are added with a lower weight. Any detector can teach so.
- `Mimic`: auxiliary layers, dropped after training, predict a darknet teacher's outputs from the student's
  pyramid, all of its classes. So the pyramid learns more than the labels require, on any augmented image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert, box_iou

from models import boxes, registry
from models.builders import efficientdet
from models.detection.darknet import network as darknet
from models.detection.darknet.cfg import Yolo as YoloSection
from models.detection.darknet.network import Darknet
from models.detection.yolo_config import STRIDES
from models.pipeline import Kind
from models.training.precision import autocast
from models.weights import Store, standard_catalogue

BESIDE = 0.1
"""How much boxes and classes count beside objectness."""


@dataclass(frozen=True)
class Lesson:
    """A teacher's outputs for a batch.

    Attributes:
        maps: per head of a darknet network its logits, float32 Tensor[N, h, w, A, 5 + C]: x, y, log w, log h,
            objectness, classes; of another teacher none.
        found: float32 Tensor[D, 7]: image, class (the student's), cx, cy, w, h in pixels, score.
    """

    maps: tuple[Tensor, ...]
    found: Tensor


class Teacher:
    """A detector, and the mapping of its classes to the student's.

    Args:
        network: uint8 Tensor[N, S, S, 3], RGB -> boxes Tensor[N, A, 4], xyxy in canvas pixels, and scores
            Tensor[N, A, C]; it is made channels-last and frozen, in place.
        classes: index among the teacher's classes -> index among the student's.

    Attributes:
        taught: int64 Tensor[K], the student's classes that it knows.
        heads: for each of its heads that `Lesson.maps` has, the stride and the number of anchors.
        outputs: logits of an anchor in these maps.

    Raises:
        ValueError: no shared class.
    """

    heads: Sequence[tuple[int, int]] = ()
    outputs = 0

    def __init__(self, network: nn.Module, classes: Mapping[int, int]) -> None:
        if not classes:
            raise ValueError("the teacher has none of the labels")
        self.network = network.eval().requires_grad_(False)
        self.classes = dict(classes)
        self.taught = torch.tensor(sorted(set(self.classes.values())))
        network.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, images: Tensor, score: float = 0.05) -> Lesson:
        """uint8 Tensor[N, S, S, 3], RGB, at the teacher's canvas; boxes below `score` are left out."""
        with autocast():
            boxes_, scores = self.network(images)
        return Lesson((), self._found(boxes_.float(), scores.float(), score))

    def _found(self, all_boxes: Tensor, all_scores: Tensor, score: float) -> Tensor:
        theirs = torch.tensor(list(self.classes))
        chosen = boxes.select(
            all_boxes.numpy(),
            all_scores[..., theirs].numpy(),
            score_threshold=score,
            iou_threshold=0.45,
            max_detections=100,
        )
        ours = torch.tensor(list(self.classes.values()))[chosen.classes]
        centred = box_convert(torch.from_numpy(chosen.boxes), "xyxy", "cxcywh")
        images, scores = torch.from_numpy(chosen.images), torch.from_numpy(chosen.scores)
        return torch.cat((torch.stack((images, ours), dim=1).float(), centred, scores[:, None]), 1)


class DarknetTeacher(Teacher):
    """A darknet network with `[yolo]` heads, which `Mimic` can learn from too.

    Raises:
        ValueError: a head is not a plain `[yolo]`, has a stride that the student lacks, or no shared class.
    """

    network: Darknet

    def __init__(self, network: Darknet, classes: Mapping[int, int]) -> None:
        super().__init__(network, classes)
        sections = [section for section in network.config.layers if isinstance(section, YoloSection)]
        if len(sections) != len(network.heads) or any(section.new_coords for section in sections):
            raise ValueError("a teacher's heads must be [yolo] without new_coords")
        strides = [int(head.stride[0]) for head in network.heads]  # type: ignore[index]
        if not set(strides) <= set(STRIDES):
            raise ValueError(f"the teacher's strides {strides} are not all of {STRIDES}")
        anchors = [len(head.anchors) for head in network.heads]  # type: ignore[arg-type]
        self.heads = list(zip(strides, anchors, strict=True))
        self.outputs = 5 + network.classes

    @torch.no_grad()
    def __call__(self, images: Tensor, score: float = 0.05) -> Lesson:
        """As `Teacher` does, and the heads' logits."""
        with autocast():
            raw = [map_.float() for map_ in self.network.raw(images)]
        decoded = [head(map_) for head, map_ in zip(self.network.heads, raw, strict=True)]
        all_boxes, all_scores = (torch.cat(parts, dim=1) for parts in zip(*decoded, strict=True))
        maps = tuple(
            map_.view(len(images), count, self.outputs, *map_.shape[2:]).permute(0, 3, 4, 1, 2)
            for map_, (_, count) in zip(raw, self.heads, strict=True)
        )
        return Lesson(maps, self._found(all_boxes, all_scores, score))


def load_teacher(name: str, catalogue: Path | None, size: int, labels: Sequence[str]) -> Teacher:
    """A detector of the catalogue (or of an operator's own besides), on a canvas of `size`.

    Raises:
        ValueError: it is no detector or has another canvas, or see `DarknetTeacher`.
        ModelUnknown: it is not there.
        WeightsError: a file is not what it should be, or the teacher cannot have such a canvas.
    """
    entry = standard_catalogue(catalogue)[name]
    if entry.task != Kind.DETECT:
        raise ValueError(f"{name} is no detector")
    made_by = registry.builder(entry.builder)
    if made_by is darknet.build:
        entry = replace(entry, options={**entry.options, "width": size, "height": size})
    elif made_by is efficientdet.build:
        entry = replace(entry, options={**entry.options, "size": size})
    pipeline = registry.build_entry(entry, Store().files(entry))
    if pipeline.card.input != (size, size):
        raise ValueError(f"{name} has a canvas of {pipeline.card.input}, the training one of {size} x {size}")
    known = {label: index for index, label in enumerate(pipeline.card.labels)}
    classes = {known[label]: index for index, label in enumerate(labels) if label in known}
    network = pipeline.module
    return DarknetTeacher(network, classes) if isinstance(network, Darknet) else Teacher(network, classes)


def soften(targets: Tensor, found: Tensor, share: float, taught: Tensor) -> Tensor:
    """Labels and a teacher's detections as one set of targets.

    Args:
        targets: float32 Tensor[T, 7]: image, class, cx, cy, w, h, how sure.
        found: Tensor[D, 7], `Lesson.found`.
        share: weight of the teacher's outputs, 0 to 1.
        taught: Tensor[K], `Teacher.taught`; labels of other classes stay as they are.

    Returns:
        Tensor[T + E, 7]: a label keeps 1 - `share` of its sureness and gets the rest times the best score
        that the teacher gives there (IoU of at least 0.5); the E boxes that the teacher finds where no label
        is (IoU below 0.3) follow, with `share` times their score.
    """
    overlap = box_iou(
        box_convert(targets[:, 2:6], "cxcywh", "xyxy"), box_convert(found[:, 2:6], "cxcywh", "xyxy")
    )
    overlap = overlap * (targets[:, None, :2] == found[None, :, :2]).all(dim=2)  # same image, same class
    seen = F.pad(torch.where(overlap >= 0.5, found[:, 6], 0.0), (1, 0)).amax(
        dim=1
    )  # 0 where nothing is found
    part = torch.where(torch.isin(targets[:, 1], taught.float()), 1 - share + share * seen, 1.0)
    ours = torch.cat((targets[:, :6], (targets[:, 6] * part)[:, None]), dim=1)
    unlabelled = (overlap < 0.3).all(dim=0)  # all of them when there is no target
    theirs = found[unlabelled]
    return torch.cat((ours, torch.cat((theirs[:, :6], share * theirs[:, 6:]), dim=1)))


class Mimic(nn.Module):
    """Predicts the teacher's heads from the student's pyramid, by one 1 x 1 convolution a head.

    Args:
        teacher: whose heads, one at least.
        channels: of the student's pyramid.
    """

    def __init__(self, teacher: Teacher, channels: int) -> None:
        super().__init__()
        self.places = [STRIDES.index(stride) for stride, _ in teacher.heads]
        self.heads = nn.ModuleList(
            nn.Conv2d(channels, count * teacher.outputs, 1) for _, count in teacher.heads
        )
        for head, (_, count) in zip(self.heads, teacher.heads, strict=True):
            bias = head.bias.detach().view(count, teacher.outputs)  # type: ignore[operator]
            bias[:, 4:] = -5.0  # few objects

    def forward(self, features: Sequence[Tensor], lesson: Lesson) -> Tensor:
        """The loss, Tensor[], of the student's pyramid, Tensor[N, channels, h, w] each, and the lesson.

        Objectness counts everywhere, boxes and classes in proportion to the teacher's objectness.
        """
        total = lesson.maps[0].new_zeros(())
        for head, place, wanted in zip(self.heads, self.places, lesson.maps, strict=True):
            said = head(features[place]).float()
            said = said.permute(0, 2, 3, 1).reshape(wanted.shape)
            sure = wanted[..., 4].sigmoid()
            total = total + F.binary_cross_entropy_with_logits(said[..., 4], sure)
            centre = F.smooth_l1_loss(said[..., :2].sigmoid(), wanted[..., :2].sigmoid(), reduction="none")
            size = F.smooth_l1_loss(said[..., 2:4], wanted[..., 2:4], reduction="none")
            kinds = F.binary_cross_entropy_with_logits(
                said[..., 5:], wanted[..., 5:].sigmoid(), reduction="none"
            )
            rest = BESIDE * (centre.sum(-1) + size.sum(-1) + kinds.sum(-1))
            total = total + (rest * sure).sum() / sure.sum().clamp(min=1)
        return total / len(self.heads)
