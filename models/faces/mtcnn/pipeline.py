"""MTCNN: faces with five landmarks, as a pipeline whose three stages each run once for a whole batch.

Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks" (2016,
https://arxiv.org/abs/1604.02878). The proposal network over the image pyramid is the pipeline's module;
choosing candidates and the two small networks behind it are its postprocessing. Thresholds and order of the
steps are those of facenet-pytorch, whose weights these are. Unlike there, the candidates of a batch are cut
out all at once, and their number is bounded, so that noise costs no more time than a crowd.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from models.checkpoint import require_files
from models.errors import WeightsError
from models.faces.mtcnn.candidates import (
    Candidates,
    Crops,
    FaceContext,
    Floats,
    nms_over_min_area,
    shift,
    square,
)
from models.faces.mtcnn.pyramid import GREY, Pyramid
from models.faces.result import Face, FaceOptions, Faces, Landmarks, LargeFaceOptions
from models.image import Image, letterbox
from models.options import check_range, read_options
from models.pipeline import Build, Card, Kind, Pipeline, Prepared, RunStage, Stage
from models.weights import Entry

if TYPE_CHECKING:
    from torch import nn

_REACH = 0.68  # of the proposal network's window: faces of this size are still found, smaller ones less often
_SKIP = 2  # sizes of the pyramid, the largest, which take two thirds of the work and find small faces
_LARGE = 1.25  # of the smallest window without them: such a face is found as it is with them
_SIDES = (24, 48)  # of the crops that the second and the third network take, pixels
_DRAWING = (  # ellipses on a canvas of 640: centre, half axes, colour
    (320, 300, 150, 200, (60, 40, 30)),
    (320, 340, 120, 160, (220, 180, 150)),
    *((x, 310, 24, 12, (250, 250, 250)) for x in (270, 370)),
    *((x, 310, 11, 11, (40, 30, 30)) for x in (270, 370)),
    *((x, 284, 30, 6, (70, 45, 35)) for x in (270, 370)),
    (320, 370, 12, 34, (200, 155, 130)),
    (320, 392, 22, 9, (170, 120, 100)),
    (320, 430, 42, 14, (170, 70, 70)),
)
_CHUNK = 512  # most crops that a small network takes at once: bounds the memory of its activations


@dataclass(frozen=True, slots=True)
class MtcnnOptions:
    """Options of the builder: what is chosen for a model, not for a request.

    Attributes:
        height, width: of the canvas that images are fitted into, pixels.
        min_face: the smallest face looked for, pixels of the canvas.
        factor: between two sizes of the pyramid.
        thresholds: scores that a candidate needs to pass each stage; the last is `FaceOptions`' default.
        candidates: the most of one image, by score, that go into the first stage's suppression, into the
            second network and into the third.
        tiles: the most parts of one image that are looked at for small faces.

    Raises:
        ValueError: a value out of its range.
    """

    height: int = 640
    width: int = 640
    min_face: float = 24.0
    factor: float = 0.709
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.9)
    candidates: tuple[int, int, int] = (1000, 256, 64)
    tiles: int = 12

    def __post_init__(self) -> None:
        for threshold in self.thresholds:
            check_range("thresholds", threshold, 0, 1)
        for most in self.candidates:
            check_range("candidates", most, 1, 1_000_000)
        check_range("tiles", self.tiles, 1, 64)


class MtcnnPipeline(Pipeline):
    """Pipeline of the face detector (see `models.pipeline.Pipeline`).

    Attributes:
        stages: the networks ``rnet`` (crops of 24 x 24) and ``onet`` (48 x 48): float32 [M, S, S, 3],
            RGB, 0 to 255, M from 1 to 512 -> scores [M], regressions [M, 4] and, of the last
            one, landmarks [M, 5, 2].

    A request's faces do not depend on the other requests of its batch.

    Where only large faces are asked for, the module's input is a smaller mosaic, without the largest sizes of
    the pyramid. Smaller faces are then found too, but not all, and not each as it is with those sizes.
    """

    def __init__(self, card: Card, networks: tuple[Build, Build, Build], options: MtcnnOptions) -> None:
        self.build, rnet, onet = networks
        self.card = card
        self.options = options
        pyramid = partial(Pyramid, options.height, options.width, options.min_face, options.factor)
        self.pyramid = pyramid()
        shorter = min(options.height, options.width)
        large = _LARGE * options.min_face / options.factor**_SKIP
        self._large = pyramid(_SKIP) if large < shorter else None
        self.large_face = large / shorter if self._large else 0.0
        self.stages = {
            "rnet": Stage(rnet, (_SIDES[0], _SIDES[0], 3)),
            "onet": Stage(onet, (_SIDES[1], _SIDES[1], 3)),
        }
        self._run_stage: dict[str, RunStage] = {name: stage.run for name, stage in self.stages.items()}
        pyramids = (self.pyramid, self._large) if self._large else (self.pyramid,)
        self.shapes = tuple([(one.height, one.width, 3) for one in pyramids])
        self.min_side = max(options.height, options.width)
        self.smallest_face = _REACH * options.min_face / shorter
        self.face_tiles = options.tiles

    @property
    def all_cores(self) -> bool:
        """Also with two mosaics: see `Pipeline.all_cores`."""
        return True

    def with_stages(self, compiled: Mapping[str, RunStage]) -> Self:
        """See `Pipeline.with_stages`."""
        if unknown := compiled.keys() - self.stages.keys():
            raise ValueError(f"{self.card.name} has no stages {', '.join(sorted(unknown))}")
        other = copy.copy(self)
        other._run_stage = {**self._run_stage, **compiled}
        return other

    def rehearsal(self, shape: tuple[int, int, int]) -> Image:
        """A drawing that all three networks take for a face: a blank image has no candidates."""
        height, width = self.options.height, self.options.width  # the shape is the mosaic's
        pixels: NDArray[np.uint8] = np.full((height, width, 3), 90, np.uint8)
        unit = min(height, width) / 640
        for x, y, across, down, colour in _DRAWING:
            centre, axes = (round(x * unit), round(y * unit)), (round(across * unit), round(down * unit))
            cv2.ellipse(pixels, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)
        return Image(cv2.GaussianBlur(pixels, (0, 0), 4 * unit).astype(np.uint8), width, height)

    def preprocess(self, image: Image, options: FaceOptions | None = None) -> Prepared:
        """The image at the sizes of the pyramid that it takes, in one mosaic."""
        large = self._large is not None and isinstance(options, LargeFaceOptions)
        canvas, geometry = letterbox(image, self.options.height, self.options.width, fill=GREY)
        context = FaceContext(canvas, geometry, options or FaceOptions(), large)
        return Prepared((self._pyramid(large).mosaic(canvas),), context)

    def _pyramid(self, large: bool) -> Pyramid:
        return self._large if large and self._large else self.pyramid

    def postprocess(self, outputs: tuple[NDArray[Any], ...], contexts: Sequence[FaceContext]) -> list[Faces]:
        """Proposals' scores [N, P] and regressions [N, 4, P] of one mosaic -> the faces of each image."""
        count = len(contexts)
        if not count:
            return []
        crops = Crops(contexts)
        found = self._propose(self._pyramid(contexts[0].large), outputs[0][:count], outputs[1][:count])
        found = self._refine(found[found.best(self.options.candidates[1], count)], crops)
        found, landmarks = self._output(found[found.best(self.options.candidates[2], count)], crops, contexts)
        kept = found.best([context.options.max_faces for context in contexts], count)
        return _results(
            found[kept], landmarks[kept], contexts, [self._least(context) for context in contexts]
        )

    def _least(self, context: FaceContext) -> float:
        """The smallest face that is looked for, pixels of the original."""
        share = self.large_face if context.large else self.smallest_face
        longer = max(context.geometry.width, context.geometry.height)
        return max(share * longer, context.options.min_size or 0.0)

    def _propose(self, pyramid: Pyramid, scores: Floats, shifts: Floats) -> Candidates:
        levels, count = pyramid.levels, len(scores)
        images, cells = ((scores >= self.options.thresholds[0]) & (levels >= 0)).nonzero()
        found = Candidates(pyramid.windows[cells], scores[images, cells], images)
        chosen = found.best(self.options.candidates[0], count)
        found, cells = found[chosen], cells[chosen]
        kept = found.suppressed(0.5, found.images * len(pyramid.tiles) + levels[cells])
        found, cells = found[kept], cells[kept]
        kept = found.suppressed(0.7)
        found, cells = found[kept], cells[kept]
        # less one: the weights' authors take the number of pixels between the first and the last here
        sides = found.boxes[:, 2:] - found.boxes[:, :2] - 1
        return square(found, found.boxes + shifts[found.images, :, cells] * np.tile(sides, 2))

    def _refine(self, found: Candidates, crops: Crops) -> Candidates:
        scores, shifts, *_ = self._run("rnet", crops.cut(found, _SIDES[0]))
        found = Candidates(found.boxes, scores, found.images)
        passed = (scores > self.options.thresholds[1]).nonzero()[0]
        kept = passed[found[passed].suppressed(0.7)]
        return square(found[kept], shift(found.boxes[kept], shifts[kept]))

    def _output(
        self, found: Candidates, crops: Crops, contexts: Sequence[FaceContext]
    ) -> tuple[Candidates, Floats]:
        scores, shifts, landmarks = self._run("onet", crops.cut(found, _SIDES[1]))
        corners, sides = found.boxes[:, None, :2], (found.boxes[:, 2:] - found.boxes[:, :2])[:, None]
        landmarks = corners + landmarks * sides
        found = Candidates(shift(found.boxes, shifts), scores, found.images)
        default = self.options.thresholds[2]
        asked = [context.options.score_threshold for context in contexts]
        floors = np.array([default if threshold is None else threshold for threshold in asked], np.float32)
        smallest = np.array(
            [(context.options.min_size or 0) * context.geometry.scale_x for context in contexts]
        )
        shorter = (found.boxes[:, 2:] - found.boxes[:, :2]).min(1, initial=np.inf)
        passed = ((scores >= floors[found.images]) & (shorter >= smallest[found.images])).nonzero()[0]
        kept = passed[nms_over_min_area(found[passed], 0.7)]
        return found[kept], landmarks[kept]

    def _run(self, name: str, crops: Floats) -> tuple[Floats, ...]:
        if not len(crops):
            return tuple(np.zeros((0, *shape), np.float32) for shape in ((), (4,), (5, 2)))
        parts = [self._run_stage[name](crops[at : at + _CHUNK]) for at in range(0, len(crops), _CHUNK)]
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _results(
    found: Candidates, landmarks: Floats, contexts: Sequence[FaceContext], least: Sequence[float]
) -> list[Faces]:
    """Faces by image and falling score -> one result an image, in its own pixels.

    `least` is each image's smallest face that was looked for, in them.
    """
    ends = np.searchsorted(found.images, np.arange(len(contexts) + 1))
    results = []
    for context, (start, end), smallest in zip(contexts, pairwise(ends), least, strict=True):
        geometry = context.geometry
        rows = zip(
            geometry.undo_boxes(found.boxes[start:end]).tolist(),
            found.scores[start:end].tolist(),
            geometry.undo_points(landmarks[start:end]).tolist(),
            strict=True,
        )
        items = tuple(
            Face(tuple(box), score, cast(Landmarks, tuple((x, y) for x, y in five)))
            for box, score, five in rows
        )
        results.append(Faces(geometry.width, geometry.height, items, smallest))
    return results


def _network(name: str, path: Path) -> nn.Module:
    from models.faces.mtcnn import networks

    network: networks.Network = getattr(networks, name)()
    network.load(path)
    return network


def build(entry: Entry, files: Mapping[str, Path]) -> MtcnnPipeline:
    """Builder ``mtcnn``: files ``pnet``, ``rnet`` and ``weights`` (the output network); options as in
    `MtcnnOptions`.

    Raises:
        WeightsError: a file is missing or another network's, or an option is unknown or out of its range.
    """
    roles = ("pnet", "rnet", "weights")
    require_files(files, roles, "an MTCNN")
    options = read_options(MtcnnOptions, entry.options)
    card = entry.card(
        Kind.FACES,
        input=(options.height, options.width),
        details={"thresholds": options.thresholds, "min_face": options.min_face},
    )
    try:
        pnet, rnet, onet = (
            partial(_network, name, files[role])
            for name, role in zip(("PNet", "RNet", "ONet"), roles, strict=True)
        )
        return MtcnnPipeline(card, (pnet, rnet, onet), options)
    except ValueError as error:
        raise WeightsError(str(error)) from error
