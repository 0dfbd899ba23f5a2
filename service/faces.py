"""Faces as a composition: the detector's runner finds them, each aligned chip goes alone to the embedder's.

So chips of different requests share batches, and a picture of many faces is embedded in few. Faces are
personal data: nothing about them is logged or kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch

from models.errors import ModelError, ParameterInvalid
from models.faces.align import cut_faces
from models.faces.result import Embedding, Face, FaceOptions, Faces
from models.faces.verify import FaceSelect, Verdict, select_face
from models.faces.verify import compare as compare_embeddings
from models.image import Image
from models.pipeline import Prepared, Task
from service.dataplane import Answer, DataPlane, KeptImage, Trace, each
from service.runner import Job, Runner

T = TypeVar("T")

CHIP_SIDE = 1440
"""Shortest side in pixels that a picture may be reduced to before chips are cut: faces keep their detail."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """The faces of one picture, each with its embedding, and the model that embedded them."""

    faces: Faces
    embeddings: tuple[Embedding, ...]
    embedder: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Verified:
    """Whether two pictures show one person, and by which faces and which model."""

    verdict: Verdict
    faces: dict[str, Face]
    embedder: str
    sha256: str


class FaceDesk:
    """Everything about faces, on top of the data plane."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def detect(
        self, data: bytes, options: FaceOptions, *, model: str | None = None, deadline: float | None = None
    ) -> Answer[Faces]:
        """Faces of a picture. Raises as `DataPlane.classify` does."""
        return await self._plane.infer(self._plane.runner(Task.FACES, model), data, options, deadline)

    async def embed(
        self,
        data: bytes,
        options: FaceOptions,
        *,
        model: str | None = None,
        embedder: str | None = None,
        deadline: float | None = None,
    ) -> Answer[Embedded]:
        """Faces of a picture, each with its embedding."""
        target = self._plane.runner(Task.EMBED, embedder)
        with self._plane.kept(min_side=CHIP_SIDE) as kept:
            found = await self._find(data, options, model, deadline, kept)
            embeddings, trace = await self._embed(kept.image, found.result.items, target, deadline)
        result = Embedded(found.result, tuple(embeddings), target.card.name, target.card.sha256)
        return Answer(found.model, result, _joined(found.trace, trace))

    async def verify(
        self,
        a: bytes,
        b: bytes,
        *,
        select: FaceSelect,
        threshold: float | None = None,
        model: str | None = None,
        embedder: str | None = None,
        deadline: float | None = None,
    ) -> Answer[Verified]:
        """Whether two pictures show one person.

        Raises:
            FaceNotFound, FacesMany: with the picture (``a`` or ``b``) it was.
            ModelError: a picture's own error, with its name likewise.
        """
        target = self._plane.runner(Task.EMBED, embedder)

        async def one(name: str, data: bytes) -> tuple[Face, Embedding, Trace]:
            try:
                with self._plane.kept(min_side=CHIP_SIDE) as kept:
                    found = await self._find(data, FaceOptions(), model, deadline, kept)
                    face = select_face(found.result, select, name)
                    embeddings, trace = await self._embed(kept.image, [face], target, deadline)
            except ParameterInvalid:
                raise
            except ModelError as exc:
                exc.image = name
                raise
            return face, embeddings[0], _joined(found.trace, trace)

        both = await each([partial(one, "a", a), partial(one, "b", b)], 2)
        # a's error before b's, whichever was first
        (face_a, one_a, trace_a), (face_b, one_b, trace_b) = (_value(outcome) for outcome in both)
        result = Verified(
            self._verdict(target, one_a, one_b, threshold),
            {"a": face_a, "b": face_b},
            target.card.name,
            target.card.sha256,
        )
        return Answer(target.card.name, result, _joined(trace_a, trace_b))

    def compare(
        self, a: Embedding, b: Embedding, *, threshold: float | None, embedder: str | None
    ) -> Verified:
        """The same verdict from two embeddings that this service gave before.

        Raises:
            ParameterInvalid: a vector of another model, of the wrong length, or with NaN.
        """
        target = self._plane.runner(Task.EMBED, embedder)
        return Verified(self._verdict(target, a, b, threshold), {}, target.card.name, target.card.sha256)

    def _verdict(self, target: Runner, a: Embedding, b: Embedding, threshold: float | None) -> Verdict:
        return compare_embeddings(a, b, target.card, threshold=threshold)

    async def _find(
        self, data: bytes, options: FaceOptions, model: str | None, deadline: float | None, kept: KeptImage
    ) -> Answer[Faces]:
        """The faces of an image, which is decoded once, for both networks."""
        return await self._plane.infer(
            self._plane.runner(Task.FACES, model), data, options, deadline, keep=kept
        )

    async def _embed(
        self, image: Image, faces: Sequence[Face], target: Runner, deadline: float | None
    ) -> tuple[list[Embedding], Trace]:
        """Chips, and their embeddings: no more of one picture at once than the queue has room for."""
        if not faces:
            return [], Trace(0.0, 0.0, 0.0, 0)

        def cut(face: Face) -> Prepared:
            with torch.inference_mode():
                return target.pipeline.preprocess(cut_faces(image, [face], target.card.space.template)[0])

        jobs: list[Job] = [partial(cut, face) for face in faces]
        if not self._plane.inline:
            jobs = [await self._plane.in_decoder(job) for job in jobs if not isinstance(job, Prepared)]
        embeddings: list[Embedding] = []
        trace = Trace(0.0, 0.0, 0.0, 0)
        for start in range(0, len(jobs), target.window):
            tasks = [
                asyncio.ensure_future(target.run(job, deadline))
                for job in jobs[start : start + target.window]
            ]
            try:
                done = await asyncio.gather(*tasks)
            except BaseException:
                for task in tasks:  # one is refused or the client is gone: the others need no device
                    task.cancel()
                raise
            embeddings += [one.result for one in done]
            slowest = max(done, key=lambda one: one.queue_s + one.compute_s)
            largest = max(one.batch_size for one in done)
            trace = _joined(trace, Trace(0.0, slowest.queue_s, slowest.compute_s, largest))
        return embeddings, trace


def _value(outcome: T | Exception) -> T:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _joined(first: Trace, second: Trace) -> Trace:
    """Two parts of one answer's way: the times added, the larger batch."""
    return replace(
        first,
        decode=first.decode + second.decode,
        queue=first.queue + second.queue,
        compute=first.compute + second.compute,
        batch_size=max(first.batch_size, second.batch_size),
    )
