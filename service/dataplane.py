"""The one way in for every transport: bytes in, typed result out.

HTTP and gRPC are two thin doors of this house. Nothing here knows of a status code, a header or a message;
errors are those of `service.errors` and `models.errors`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Self, TypeVar

from models.classification.result import Classification, ClassifyOptions
from models.detection.result import Detections, DetectOptions
from models.errors import ModelUnknown, echoed
from models.image import DecodePlan, Image, Limits, decode
from models.image import plan as plan_decoding
from models.pipeline import Prepared, Task
from service.memory import MemoryBudget
from service.metrics import Metrics
from service.offload import Call, Offload
from service.runner import Runner, State
from service.tracing import Tracing

R = TypeVar("R")
T = TypeVar("T")

PLANNED_INLINE = 1024 * 1024
"""Bytes of a file whose header is read in the event loop, at the price of a memory search over them."""

NOT_READY_AFTER = 10.0
"""Seconds that one call of a model may take until the model is not ready."""

NOT_ALIVE_AFTER = 60.0
"""Seconds that one call may take until only a new process helps."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Where one answer's time went, in seconds, and the size of the batch that computed it."""

    decode: float
    queue: float
    compute: float
    batch_size: int

    @property
    def timing(self) -> str:
        """As the value of a Server-Timing header, milliseconds (https://www.w3.org/TR/server-timing)."""
        return (
            f"decode;dur={self.decode * 1000:.2f}, queue;dur={self.queue * 1000:.2f}, "
            f"compute;dur={self.compute * 1000:.2f}"
        )


@dataclass(frozen=True, slots=True)
class Answer(Generic[R]):
    """A result, the name of the model that gave it, and its way there."""

    model: str
    result: R
    trace: Trace


class KeptImage:
    """The decoded image of a request, where it is needed after its batch; gives its memory back on exit.

    Args:
        memory: of the worker.
        min_side, max_pixels: how far the decoder may reduce it, see `models.image.decode`.

    Attributes:
        image: once `DataPlane.infer` has decoded it.
    """

    image: Image

    def __init__(
        self, memory: MemoryBudget, *, min_side: int | None = None, max_pixels: int | None = None
    ) -> None:
        self.min_side = min_side
        self.max_pixels = max_pixels
        self._memory = memory
        self._held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.release(self._held)
        self._held = 0

    def take(self, size: int) -> None:
        """From now on `size` reserved bytes are this image's."""
        self._held += size


class DataPlane:
    """Routes pictures to runners.

    Args:
        runners: every model that is served; the first of each task is that task's default.
        metrics: where the decoding is told of.
        limits: of one picture.
        decoders: threads that decode and preprocess; 0: the models' own threads do, just before a batch.
        memory: for decoded images.
        tracing: where spans of the decoding go, if anywhere.

    Attributes:
        runners: by name.
        limits: of one image.
        memory: for decoded images.
        offload: threads for long work.
        inline: pictures are prepared in the models' own threads.
        draining: the end is near; not ready any more.
    """

    def __init__(
        self,
        runners: Iterable[Runner],
        metrics: Metrics,
        limits: Limits,
        decoders: int,
        memory: MemoryBudget,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self.memory = memory
        self.offload = Offload(memory, max(1, decoders))
        self.runners: dict[str, Runner] = {runner.card.name: runner for runner in runners}
        self.limits = limits
        self.draining = False
        self._defaults: dict[Task, str] = {}
        for name, runner in self.runners.items():
            self._defaults.setdefault(runner.card.task, name)
        self.inline = decoders == 0
        self._decoders = ThreadPoolExecutor(max(1, decoders), thread_name_prefix="decode")
        self._decode_seconds = {name: metrics.stage_seconds.labels(name, "decode") for name in self.runners}

    @property
    def ready(self) -> bool:
        """Every configured model is loaded, verified and warm, and the service is not draining."""
        return bool(self.runners) and all(self.is_ready(name) for name in self.runners)

    @property
    def alive(self) -> bool:
        """No model has failed for good, and no call lasts as if for ever; else only a new process helps."""
        now = time.monotonic()
        longest = max((runner.longest(now) for runner in self.runners.values()), default=0.0)
        return max(longest, self.offload.longest(now)) < NOT_ALIVE_AFTER and all(
            runner.state is not State.FAILED for runner in self.runners.values()
        )

    def runner(self, task: Task, model: str | None) -> Runner:
        """The runner of a model, or of the task's default model.

        Raises:
            ModelUnknown: no such model is served, or it is of another task.
        """
        name = model if model is not None else self._defaults.get(task)
        runner = self.runners.get(name) if name is not None else None
        if runner is None or runner.card.task is not task:
            served = [r.card.name for r in self.runners.values() if r.card.task is task]
            named = "no model" if model is None else f"no model named {echoed(model)}"
            raise ModelUnknown(f"{named} serves {task}; these do: {', '.join(served) or 'none'}")
        return runner

    def is_ready(self, name: str) -> bool:
        """Whether a model answers now."""
        runner = self.runners[name]
        return (
            not self.draining
            and runner.state is State.READY
            and runner.longest(time.monotonic()) < NOT_READY_AFTER
        )

    def is_default(self, name: str) -> bool:
        """Whether a model is its task's default."""
        return self._defaults.get(self.runners[name].card.task) == name

    async def classify(
        self,
        data: bytes,
        options: ClassifyOptions,
        *,
        model: str | None = None,
        deadline: float | None = None,
    ) -> Answer[Classification]:
        """Labels of a picture.

        Raises:
            ImageInvalid, ImageTooLarge, MediaTypeUnsupported: the bytes.
            ParameterInvalid, ModelUnknown: the request.
            Overloaded, NotReady, DeadlineExceeded: the service.
        """
        return await self.infer(self.runner(Task.CLASSIFY, model), data, options, deadline)

    async def detect(
        self, data: bytes, options: DetectOptions, *, model: str | None = None, deadline: float | None = None
    ) -> Answer[Detections]:
        """Objects of a picture. Raises as `classify` does."""
        return await self.infer(self.runner(Task.DETECT, model), data, options, deadline)

    async def drain(self, grace: float) -> bool:
        """Finishes what was admitted; whether all of it was within `grace` seconds."""
        self.draining = True
        finished = await asyncio.gather(*(runner.drain(grace) for runner in self.runners.values()))
        self._decoders.shutdown(wait=False)
        self.offload.close()
        return all(finished)

    async def in_decoder(self, work: Callable[[], T]) -> T:
        """Runs work on a picture's pixels in a decoding thread."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    def kept(self, *, min_side: int | None = None, max_pixels: int | None = None) -> KeptImage:
        """What `infer` is given so that the decoded image outlives the batch."""
        return KeptImage(self.memory, min_side=min_side, max_pixels=max_pixels)

    async def plan(
        self, data: bytes, *, min_side: int | None = None, max_pixels: int | None = None
    ) -> DecodePlan:
        """What decoding an image will take; see `models.image.plan`."""
        work = partial(plan_decoding, data, self.limits, min_side=min_side, max_pixels=max_pixels)
        return work() if len(data) <= PLANNED_INLINE else await self.in_decoder(work)

    async def infer(
        self,
        runner: Runner,
        data: bytes,
        options: Any,
        deadline: float | None,
        *,
        keep: KeptImage | None = None,
    ) -> Answer[Any]:
        """Admission, memory, decoding in a thread, a place in a batch.

        An image that takes long to decode is decoded apart from the others, with its memory reserved; see
        `service.offload`. A small one takes little, and a thread decodes one at a time: only what is kept of
        it is reserved.

        Args:
            runner: the model.
            data: the image, encoded.
            options: its task's options.
            deadline: on the monotonic clock.
            keep: takes the decoded image, and says how far it may be reduced; None: as far as the model
                allows.
        """
        pipeline = runner.pipeline
        min_side = pipeline.min_side if keep is None else keep.min_side
        max_pixels = None if keep is None else keep.max_pixels
        began = decoded = 0.0

        def prepare(check: Callable[[], None]) -> Prepared:
            nonlocal began, decoded
            check()
            began = time.perf_counter()
            image = decode(data, self.limits, min_side=min_side, max_pixels=max_pixels, plan=plan)
            check()
            if keep is not None:
                keep.image = image
            prepared = pipeline.preprocess(image, options)
            decoded = time.perf_counter() - began
            self._decode_seconds[runner.card.name].observe(decoded)
            return prepared

        with runner.admit():
            plan = await self.plan(data, min_side=min_side, max_pixels=max_pixels)
            kept = 0 if keep is None else plan.result
            if plan.large:
                prepared = await self.offload.run(
                    lambda call: prepare(call.check),
                    deadline,
                    memory=plan.memory,
                    keep=kept,
                    most=sys.maxsize,  # the runner's admission bounds them
                )
                if keep is not None:
                    keep.take(kept)
                done = await runner.run((lambda: prepared) if self.inline else prepared, deadline)
            else:
                if keep is not None:
                    await self.memory.acquire(kept, deadline)
                    keep.take(kept)
                work = partial(prepare, Call(deadline).check)
                done = await runner.run(work if self.inline else await self.in_decoder(work), deadline)
        if self._tracing is not None:
            self._tracing.stage("decode", began, decoded, runner.labels)
        return Answer(
            runner.card.name, done.result, Trace(decoded, done.queue_s, done.compute_s, done.batch_size)
        )


async def each(calls: Sequence[Callable[[], Awaitable[T]]], at_once: int) -> list[T | Exception]:
    """Answers several pictures of one request: each its result or its own error.

    Args:
        calls: one for each picture.
        at_once: how many of them may be under way (see `Runner.window`).
    """
    if len(calls) == 1:  # the usual case needs no task of its own
        try:
            return [await calls[0]()]
        except Exception as exc:
            return [exc]
    free = asyncio.Semaphore(at_once)
    results = await asyncio.gather(*(_in_turn(free, call) for call in calls), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            raise result
    return [
        result for result in results if isinstance(result, Exception) or not isinstance(result, BaseException)
    ]


async def _in_turn(free: asyncio.Semaphore, call: Callable[[], Awaitable[T]]) -> T:
    async with free:
        return await call()
