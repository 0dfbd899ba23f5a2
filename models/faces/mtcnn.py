"""MTCNN: faces with five landmarks, as a pipeline whose three stages each run once for a whole batch.

Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks" (2016,
https://arxiv.org/abs/1604.02878). The proposal network over the image pyramid is the pipeline's module; choosing
candidates and the two small networks behind it are its postprocessing. Thresholds and order of the steps are those of
facenet-pytorch, whose weights these are. Unlike there, the candidates of a batch are cut out all at once, and their
number is bounded, so that noise costs no more time than a crowd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.boxes import area, batched_nms, iou
from models.errors import WeightsError
from models.faces.mtcnn_networks import ONet, PNet, RNet
from models.faces.mtcnn_pyramid import Pyramid
from models.faces.result import Face, FaceOptions, Faces
from models.image import Image, Letterbox, letterbox
from models.pipeline import Card, Prepared, Task
from models.weights import Entry

Stage = Callable[[Tensor], tuple[Tensor, ...]]
"""A small network: uint8 Tensor[M, S, S, 3] -> scores Tensor[M], regressions Tensor[M, 4] (, landmarks Tensor[M, 5, 2])."""

_FILL = 127  # the padding of the canvas is what the networks see as zero
_CHUNK = 1024  # most crops that a small network takes at once: bounds the memory of its activations


@dataclass(frozen=True, slots=True)
class Settings:
    """What is chosen for a model, not for a request (an entry's options in the catalogue).

    Attributes:
        height, width: of the canvas that pictures are fitted into, pixels.
        min_face: the smallest face looked for, pixels of the canvas.
        factor: between two sizes of the pyramid.
        thresholds: scores that a candidate needs to pass each stage; the last is the default of `FaceOptions`.
        candidates: the most of one picture, by score, that go into the suppression of the first stage, into the
            second network and into the third.
    """

    height: int = 640
    width: int = 640
    min_face: float = 24.0
    factor: float = 0.709
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.9)
    candidates: tuple[int, int, int] = (1000, 256, 64)


@dataclass(frozen=True, slots=True)
class FaceContext:
    """What `MtcnnPipeline.postprocess` needs of one request."""

    canvas: NDArray[np.uint8] = field(repr=False)
    geometry: Letterbox
    options: FaceOptions


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Boxes that may be faces: Tensor[K, 4] on their canvases, their scores and the pictures that they are of."""

    boxes: Tensor
    scores: Tensor
    images: Tensor

    def __getitem__(self, index: Tensor) -> _Candidates:
        return _Candidates(self.boxes[index], self.scores[index], self.images[index])

    def best(self, limit: int | Tensor, count: int) -> Tensor:
        """Indices of the best-scored of each picture, at most `limit` (or Tensor[count]), by picture and falling score."""
        order = self.scores.argsort(descending=True, stable=True)
        order = order[self.images[order].argsort(stable=True)]
        owners = self.images[order]
        sizes = torch.bincount(owners, minlength=count)
        rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[owners]
        return order[rank < torch.as_tensor(limit, device=order.device).expand(count)[owners]]

    def suppressed(self, threshold: float, groups: Tensor | None = None) -> Tensor:
        """Indices of those that no better one of their picture (or group) overlaps by more than an IoU."""
        return batched_nms(self.boxes, self.scores, self.images if groups is None else groups, threshold)


class MtcnnPipeline:
    """Pipeline of the face detector (see `models.pipeline.Pipeline`).

    Attributes:
        stages: the networks ``rnet`` and ``onet``. An executor may put compiled ones in their place; they take the
            same bytes and give the same numbers, and the number of crops varies from call to call.

    A request's faces do not depend on the other requests of its batch.
    """

    def __init__(self, card: Card, networks: tuple[PNet, RNet, ONet], settings: Settings) -> None:
        pnet, rnet, onet = (network.eval().requires_grad_(False) for network in networks)
        self.card = card
        self.settings = settings
        self.pyramid = Pyramid(settings.height, settings.width, settings.min_face, settings.factor)
        self.module: nn.Module = pnet
        self.stages: dict[str, Stage] = {"rnet": rnet, "onet": onet}
        self.shapes = ((self.pyramid.height, self.pyramid.width, 3),)
        self.min_side = max(settings.height, settings.width)

    def preprocess(self, image: Image, options: FaceOptions | None = None) -> Prepared:
        """The picture at all sizes of the pyramid, in one mosaic."""
        canvas, geometry = letterbox(image, self.settings.height, self.settings.width, fill=_FILL)
        return Prepared(self.pyramid.mosaic(canvas), FaceContext(canvas, geometry, options or FaceOptions()))

    @torch.inference_mode()
    def postprocess(self, outputs: tuple[Tensor, ...], contexts: Sequence[FaceContext]) -> list[Faces]:
        """The proposal network's scores Tensor[N, P] and regressions Tensor[N, 4, P] -> the faces of each picture."""
        count = len(contexts)
        if not count:
            return []
        device = outputs[0].device
        crops = _Crops(contexts, device)
        found = self._propose(outputs[0][:count].float(), outputs[1][:count].float())
        found = self._refine(found[found.best(self.settings.candidates[1], count)], crops)
        found, landmarks = self._output(
            found[found.best(self.settings.candidates[2], count)], crops, contexts
        )
        limits = torch.tensor([context.options.max_faces for context in contexts], device=device)
        kept = found.best(limits, count)
        return _results(found[kept], landmarks[kept], contexts)

    def _propose(self, scores: Tensor, shifts: Tensor) -> _Candidates:
        levels, windows = self.pyramid.levels.to(scores.device), self.pyramid.windows.to(scores.device)
        count = len(scores)
        images, cells = ((scores >= self.settings.thresholds[0]) & (levels >= 0)).nonzero(as_tuple=True)
        found = _Candidates(windows[cells], scores[images, cells], images)
        chosen = found.best(self.settings.candidates[0], count)
        found, cells = found[chosen], cells[chosen]
        kept = found.suppressed(0.5, found.images * len(self.pyramid.tiles) + levels[cells])
        found, cells = found[kept], cells[kept]
        kept = found.suppressed(0.7)
        found, cells = found[kept], cells[kept]
        sides = (
            found.boxes[:, 2:] - found.boxes[:, :2] - 1
        )  # less one: as the weights' authors count pixels here
        return _square(found, found.boxes + shifts[found.images, :, cells] * sides.repeat(1, 2))

    def _refine(self, found: _Candidates, crops: _Crops) -> _Candidates:
        scores, shifts = self._run("rnet", crops.cut(found, RNet.side))
        found = _Candidates(found.boxes, scores, found.images)
        passed = (scores > self.settings.thresholds[1]).nonzero()[:, 0]
        kept = passed[found[passed].suppressed(0.7)]
        return _square(found[kept], _shift(found.boxes[kept], shifts[kept]))

    def _output(
        self, found: _Candidates, crops: _Crops, contexts: Sequence[FaceContext]
    ) -> tuple[_Candidates, Tensor]:
        scores, shifts, landmarks = self._run("onet", crops.cut(found, ONet.side))
        corners, sides = found.boxes[:, None, :2], (found.boxes[:, 2:] - found.boxes[:, :2])[:, None]
        landmarks = corners + landmarks * sides
        found = _Candidates(_shift(found.boxes, shifts), scores, found.images)
        default = self.settings.thresholds[2]
        wishes = [context.options.score_threshold for context in contexts]
        floors = torch.tensor([default if wish is None else wish for wish in wishes], device=scores.device)
        smallest = torch.tensor(
            [context.options.min_size * context.geometry.scale_x for context in contexts],
            device=scores.device,
        )
        shorter = (found.boxes[:, 2:] - found.boxes[:, :2]).amin(1)
        passed = ((scores >= floors[found.images]) & (shorter >= smallest[found.images])).nonzero()[:, 0]
        kept = passed[_not_inside(found[passed], 0.7)]
        return found[kept], landmarks[kept]

    def _run(self, name: str, crops: Tensor) -> tuple[Tensor, ...]:
        stage = self.stages[name]
        if isinstance(stage, nn.Module):
            stage.to(crops.device)  # nothing to do after the first time
        parts = [stage(part) for part in crops.split(_CHUNK)]
        return tuple(torch.cat(part).to(crops.device).float() for part in zip(*parts, strict=True))


class _Crops:
    """Cuts candidates out of the canvases of a batch, each pixel of a crop the mean of the pixels under it.

    The sums come from a table of the sums of all pixels above and to the left (Crow, "Summed-area tables for texture
    mapping", SIGGRAPH 1984), so a large face costs no more than a small one and one gather serves all candidates.
    """

    def __init__(self, contexts: Sequence[FaceContext], device: torch.device) -> None:
        canvases = np.stack([context.canvas for context in contexts])
        _, self.height, self.width, _ = canvases.shape
        if device.type == "cpu":  # OpenCV's is twenty times as fast as two cumulative sums of torch there
            sums = torch.from_numpy(np.stack([cv2.integral(canvas) for canvas in canvases]))
        else:
            pixels = torch.from_numpy(canvases).to(device)
            sums = F.pad(pixels.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32), (0, 0, 1, 0, 1, 0))
        self.table = F.pad(sums, (0, 1)).view(-1, 4)  # rows of 16 bytes are gathered far faster than of 12
        # where each picture lies on its canvas: what is cut ends there
        bounds = [
            (g.pad_x, g.pad_y, g.pad_x + round(g.width * g.scale_x), g.pad_y + round(g.height * g.scale_y))
            for g in (context.geometry for context in contexts)
        ]
        self.bounds = torch.tensor(bounds, device=device).long()

    def cut(self, found: _Candidates, side: int) -> Tensor:
        """uint8 Tensor[K, side, side, 3]: every candidate's part of its picture, stretched to the crop."""
        bounds = self.bounds[found.images]
        low, high = bounds[:, :2].repeat(1, 2), bounds[:, 2:].repeat(1, 2)
        boxes = torch.minimum(torch.maximum(found.boxes.floor().long(), low), high)
        steps = torch.arange(side, device=boxes.device)
        start, size = boxes[:, :2, None], (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)[..., None]
        # the bins of an adaptive average pooling: rounded outwards, so never empty
        first = torch.minimum(start + steps * size // side, high[:, :2, None] - 1)
        last = torch.minimum(start - (-(steps + 1) * size // side), high[:, :2, None])
        (x1, y1), (x2, y2) = first.unbind(1), last.unbind(1)
        rows = (found.images[:, None] * (self.height + 1) + torch.stack((y1, y2))) * (self.width + 1)
        columns = torch.stack((x1, x2))
        corners = F.embedding(rows[:, None, :, :, None] + columns[None, :, :, None, :], self.table)
        total = corners[1, 1] - corners[0, 1] - corners[1, 0] + corners[0, 0]  # [K, side, side, 4]
        count = (y2 - y1)[:, :, None] * (x2 - x1)[:, None, :]
        return (total[..., :3] / count[..., None]).round().to(torch.uint8)


def _shift(boxes: Tensor, shifts: Tensor) -> Tensor:
    """Moves each edge by its regression, in units of the box's width or height."""
    return boxes + shifts * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)


def _square(found: _Candidates, boxes: Tensor) -> _Candidates:
    """Candidates with these boxes made square about their centres."""
    centres, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) / 2
    return _Candidates(torch.cat((centres - half, centres + half), dim=1), found.scores, found.images)


def _not_inside(found: _Candidates, threshold: float) -> Tensor:
    """Greedy suppression by the intersection over the smaller box, which takes away a face inside of a face.

    It is told from the IoU: with areas A and B, the intersection is IoU * (A + B) / (1 + IoU).
    """
    order = found.scores.argsort(descending=True, stable=True)
    found = found[order]
    areas, overlap = area(found.boxes), iou(found.boxes, found.boxes)
    smaller = torch.minimum(areas[:, None], areas).clamp(min=torch.finfo(areas.dtype).tiny)
    share = overlap * (areas[:, None] + areas) / (1 + overlap) / smaller
    rivals = ((share > threshold) & (found.images[:, None] == found.images)).tril(-1)  # [lower, better]
    kept = torch.ones(len(order), dtype=torch.bool, device=order.device)
    while (
        True
    ):  # each round settles at least the best box not settled yet; two or three are enough in practice
        again = ~(rivals & kept).any(1)
        if torch.equal(again, kept):
            return order[kept]
        kept = again


def _results(found: _Candidates, landmarks: Tensor, contexts: Sequence[FaceContext]) -> list[Faces]:
    """Faces by picture and falling score -> one result a picture, in its own pixels."""
    sizes = torch.bincount(found.images, minlength=len(contexts)).tolist()
    columns = (found.boxes.cpu().split(sizes), found.scores.cpu().split(sizes), landmarks.cpu().split(sizes))
    results = []
    for context, boxes, scores, points in zip(contexts, *columns, strict=True):
        geometry = context.geometry
        rows = zip(
            geometry.undo_boxes(boxes).tolist(),
            scores.tolist(),
            geometry.undo_points(points).tolist(),
            strict=True,
        )
        items = tuple(Face(tuple(box), score, tuple(map(tuple, five))) for box, score, five in rows)
        results.append(Faces(geometry.width, geometry.height, items))
    return results


def build(entry: Entry, files: Mapping[str, Path]) -> MtcnnPipeline:
    """Builder ``mtcnn``: files ``pnet``, ``rnet`` and ``weights`` (the output network); options as in `Settings`.

    Raises:
        WeightsError: a file is missing or another network's, or an option is unknown or out of its range.
    """
    networks = (PNet(), RNet(), ONet())
    options: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.options.items()
    }
    try:
        for network, role in zip(networks, ("pnet", "rnet", "weights"), strict=True):
            network.load(files[role])
        settings = Settings(**options)
        card = Card(
            entry.name,
            Task.FACES,
            entry.licence,
            entry.files["weights"].sha256,
            input=(settings.height, settings.width),
            details={"thresholds": settings.thresholds, "min_face": settings.min_face},
        )
        return MtcnnPipeline(card, networks, settings)
    except (TypeError, ValueError, KeyError) as exc:
        raise WeightsError(f"model {entry.name!r}: {exc}") from exc
