"""The models that are served, and the one path through them: bytes in, typed result out.

Nothing here knows of a task, a status code, a header or a message; errors are those of `service.errors` and
`models.errors`.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Protocol, Self, TypeVar

from models.errors import ImageTooLarge, ModelUnknown, echoed
from models.image import DecodePlan, Image, Limits, decode
from models.image import plan as plan_decoding
from models.pipeline import Kind, Prepared
from service.engine.memory import MemoryBudget, trim
from service.engine.offload import Call, Offload
from service.engine.runner import Runner, State
from service.engine.threads import Threads
from service.errors import DeadlineExceeded
from service.telemetry.metrics import Metrics
from service.telemetry.timing import Timing
from service.telemetry.tracing import Tracing

R = TypeVar("R")
T = TypeVar("T")

PLANNED_INLINE = 1024 * 1024
"""Bytes of a file whose header is read in the event loop, at the cost of a memory search over them."""
TOGETHER_NS_PER_PIXEL = 40
"""Of the limit of pixels: what decoding the images of one request may take together, as estimated (2 s)."""

NOT_READY_AFTER = 10.0
"""Seconds that one call of a model may take until the model is not ready."""

NOT_ALIVE_AFTER = 60.0
"""Seconds that one call may take until only a new process helps."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[R]):
    """A result, the name of the model that gave it, its timing, and how many frames the image's file has."""

    model: str
    result: R
    timing: Timing
    frames: int = 1


class KeptImage:
    """The decoded image of a request, where it is needed after its batch; gives its memory back on exit.

    Args:
        memory: of the worker.
        min_side, max_pixels: how far the decoder may reduce it, see `models.image.decode`.
        copies: of its size, that are made of it later: their memory is reserved with its own. A request that
            holds memory never waits for more, or several of them could wait for each other.
        only_large: an image that is quickly decoded is not kept, but reduced as far as the model allows.

    Attributes:
        image: once `Engine.infer` has decoded it.
        plan: what decoding it takes.
    """

    image: Image
    plan: DecodePlan

    def __init__(
        self,
        memory: MemoryBudget,
        *,
        min_side: int | None = None,
        max_pixels: int | None = None,
        copies: int = 0,
        only_large: bool = False,
    ) -> None:
        self.only_large = only_large
        self.min_side = min_side
        self.max_pixels = max_pixels
        self.copies = copies
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


class TorchProcess(Protocol):
    """Answers what takes torch, outside of the worker; see `service.torch_process`."""

    def ask(self, model: str, what: str, call: Call, *arguments: Any, **named: Any) -> Any: ...
    def close(self) -> None: ...


class Engine:
    """Every model that is served by a worker.

    Args:
        runners: the first of each kind is that kind's default.
        metrics: where decoding is observed.
        limits: of one image.
        decoders: threads that decode and preprocess; 0: the models' own threads do, just before a batch.
        memory: for decoded images.
        tracing: where spans of the decoding go, if anywhere.

    Attributes:
        runners: by name.
        limits: of one image.
        memory: for decoded images.
        offload: threads for long work.
        inline: images are prepared in the models' own threads.
        draining: the service is stopping; not ready any more.
        torch_process: answers what takes torch; None: the worker itself does.
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
        for runner in self.runners.values():
            runner.sharing = self._busy
        self.limits = limits
        self.draining = False
        self.torch_process: TorchProcess | None = None
        self._defaults: dict[Kind, str] = {}
        for name, runner in self.runners.items():
            self._defaults.setdefault(runner.card.task, name)
        self.inline = decoders == 0
        self._decoders = Threads(max(1, decoders), "decode")
        self._decode_seconds = {name: metrics.stage_seconds.labels(name, "decode") for name in self.runners}

    @property
    def ready(self) -> bool:
        """Every configured model is loaded, verified and warm, and the service is not draining."""
        return bool(self.runners) and all(self.is_ready(name) for name in self.runners)

    @property
    def alive(self) -> bool:
        """No model has failed permanently, and no call hangs; else only a new process helps."""
        return self.longest < NOT_ALIVE_AFTER and all(
            runner.state is not State.FAILED for runner in self.runners.values()
        )

    @property
    def longest(self) -> float:
        """Seconds that the longest of the calls under way has taken; from any thread."""
        now = time.monotonic()
        longest = max((runner.longest(now) for runner in self.runners.values()), default=0.0)
        return max(longest, self.offload.longest(now))

    def _busy(self) -> int:
        """How many models compute now; at least 1."""
        return len([1 for runner in self.runners.values() if runner.busy]) or 1

    def serves(self, kind: Kind) -> bool:
        """Whether there is a model of a kind."""
        return kind in self._defaults

    def find(self, kind: Kind, model: str | None) -> Runner:
        """The runner of a model, or of the kind's default model.

        Raises:
            ModelUnknown: no such model is served, or it is of another kind.
        """
        name = model if model is not None else self._defaults.get(kind)
        runner = self.runners.get(name) if name is not None else None
        if runner is None or runner.card.task is not kind:
            served = [r.card.name for r in self.runners.values() if r.card.task is kind]
            named = "no model" if model is None else f"no model named {echoed(model)}"
            raise ModelUnknown(f"{named} serves {kind}; these do: {', '.join(served) or 'none'}")
        return runner

    def named(self, model: str) -> Runner:
        """The runner of a model of any kind.

        Raises:
            ModelUnknown: no such model is served.
        """
        runner = self.runners.get(model)
        if runner is None:
            served = ", ".join(self.runners)
            raise ModelUnknown(f"no model named {echoed(model)} is served; these are: {served}")
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
        """Whether a model is its kind's default."""
        return self._defaults.get(self.runners[name].card.task) == name

    async def start(self) -> None:
        """Warms every model; on a GPU all at once, since each keeps a processor busy for seconds."""
        if any(runner.executor.device != "cpu" for runner in self.runners.values()):
            await asyncio.gather(*(runner.warm() for runner in self.runners.values()))
        else:
            for runner in self.runners.values():
                await runner.warm()
        for runner in self.runners.values():
            await runner.rehearse()
        await asyncio.to_thread(trim)  # what compiling the networks has freed: 25 MB with all models

    async def drain(self, grace: float) -> bool:
        """Finishes what was admitted; whether all of it was within `grace` seconds."""
        self.draining = True
        finished = await asyncio.gather(*(runner.drain(grace) for runner in self.runners.values()))
        self._decoders.close()
        self.offload.close()
        if self.torch_process is not None:
            self.torch_process.close()
        return all(finished)

    async def in_decoder(self, work: Callable[[], T], deadline: float = float("inf")) -> T:
        """Runs short work that grows with a body in a decoding thread.

        Raises:
            DeadlineExceeded: it was not done by then; if it has not begun, it is cancelled.
        """
        left = deadline - time.monotonic()
        try:
            async with asyncio.timeout(None if left == float("inf") else left):
                return await self._decoders.run(work)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the request was read") from None

    async def plan(
        self, data: bytes, *, min_side: int | None = None, max_pixels: int | None = None
    ) -> DecodePlan:
        """What decoding an image will take; see `models.image.plan`.

        Raises:
            ImageTooLarge: also where it and those before it of the same request take too long together.
        """
        work = partial(plan_decoding, data, self.limits, min_side=min_side, max_pixels=max_pixels)
        made = work() if len(data) <= PLANNED_INLINE else await self.in_decoder(work)
        if (taken := _taken.get(None)) is not None:
            most = 1e-9 * TOGETHER_NS_PER_PIXEL * self.limits.max_pixels
            if 0 < taken.seconds > most - made.cpu_seconds:
                raise ImageTooLarge(
                    "the images of this request take too long to decode together; send them in several"
                )
            taken.seconds += made.cpu_seconds
        return made

    async def infer(
        self,
        runner: Runner,
        data: bytes | KeptImage,
        options: Any,
        deadline: float | None,
        *,
        keep: KeptImage | None = None,
    ) -> Answer[Any]:
        """Admission, memory, decoding in a thread, a place in a batch.

        An image that takes long to decode is decoded apart from the others, with its memory reserved; see
        `service.engine.offload`. A small one takes little, and a thread decodes one at a time: only what is
        kept of it is reserved.

        Args:
            runner: the model.
            data: the image, encoded, or as `decode` keeps it.
            options: of the model's kind.
            deadline: on the monotonic clock.
            keep: takes the decoded image, and says how far it may be reduced; None: as far as the model
                allows.

        Raises:
            ImageInvalid, ImageTooLarge, MediaTypeUnsupported: the bytes.
            ParameterInvalid: an option.
            Overloaded, NotReady, OutOfMemory, DeadlineExceeded: the service.
        """
        pipeline = runner.pipeline
        if isinstance(data, KeptImage):
            image = data.image
            if keep is not None:
                keep.image = image
            prepare_kept = partial(pipeline.preprocess, image, options)
            answer = await self.infer_prepared(runner, prepare_kept, deadline)
            return replace(answer, frames=image.frames)
        began = decoded = 0.0

        def prepare(check: Callable[[], None]) -> Prepared:
            nonlocal began, decoded
            check()
            began = time.perf_counter()
            image = decode(data, self.limits, plan=plan)
            check()
            if keep is not None:
                keep.image = image
            prepared = pipeline.preprocess(image, options)
            decoded = time.perf_counter() - began
            self._decode_seconds[runner.card.name].observe(decoded)
            return prepared

        with runner.admit(deadline):
            admitted = time.monotonic()
            if keep is not None:
                keep.plan = await self.plan(data, min_side=keep.min_side, max_pixels=keep.max_pixels)
                if keep.only_large and not keep.plan.large:
                    keep = None
            plan = await self.plan(data, min_side=pipeline.min_side) if keep is None else keep.plan
            kept = 0 if keep is None else (1 + keep.copies) * plan.result
            if plan.large:
                prepared = await self.offload.run(
                    lambda call: prepare(call.check),
                    deadline,
                    memory=max(plan.memory, kept),
                    keep=kept,
                    most=sys.maxsize,  # the runner's admission bounds them
                )
                if keep is not None:
                    keep.take(kept)
                job: Prepared | Callable[[], Prepared] = (lambda: prepared) if self.inline else prepared
            else:
                if keep is not None:
                    await self.memory.acquire(kept, deadline)
                    keep.take(kept)
                work = partial(prepare, Call(deadline).check)
                job = work if self.inline else await self.in_decoder(work)
            # a large one waits for others of its kind, bounded by their number and its deadline
            waited = 0.0 if plan.large else max(0.0, time.monotonic() - admitted - decoded)
            done = await runner.run(job, deadline, waited)
        if self._tracing is not None:
            self._tracing.stage("decode", began, decoded, runner.labels)
        timing = Timing(decoded, waited + done.queue_s, done.compute_s, done.batch_size)
        return Answer(runner.card.name, done.result, timing, plan.header.frames)

    async def decode(self, data: bytes, kept: KeptImage, deadline: float | None) -> Timing:
        """Decodes an image once for several models, which are then given `kept`.

        Raises:
            ImageInvalid, ImageTooLarge, MediaTypeUnsupported: the bytes.
            Overloaded, NotReady, DeadlineExceeded: the service.
        """
        plan = await self.plan(data, min_side=kept.min_side, max_pixels=kept.max_pixels)

        def work(call: Call) -> tuple[Image, float]:
            call.check()
            began = time.perf_counter()
            return decode(data, self.limits, plan=plan), time.perf_counter() - began

        if plan.large:
            kept.image, took = await self.offload.run(work, deadline, memory=plan.memory, keep=plan.result)
            kept.take(plan.result)
        else:
            await self.memory.acquire(plan.result, deadline)
            kept.take(plan.result)
            kept.image, took = await self.in_decoder(partial(work, Call(deadline)))
        return Timing(decode=took)

    async def infer_prepared(
        self, runner: Runner, prepare: Callable[[], Prepared], deadline: float | None, waited: float = 0.0
    ) -> Answer[Any]:
        """The same for what needs no decoding: a crop of a decoded image, or the network's own input.

        Args:
            waited: seconds that its image has waited for other models; they count among those that it may
                wait, see `Batcher.submit`.
        """
        with runner.admit(deadline):
            admitted = time.monotonic()
            # where images are prepared late, this one is too, or it would share no batch with them
            job = prepare if self.inline else await self.in_decoder(prepare)
            before = time.monotonic() - admitted
            done = await runner.run(job, deadline, waited + before)
        timing = Timing(0.0, before + done.queue_s, done.compute_s, done.batch_size)
        return Answer(runner.card.name, done.result, timing)


@dataclass(slots=True)
class _Taken:
    """Estimated seconds of decoding, of the images of one request so far."""

    seconds: float = 0.0


_taken: contextvars.ContextVar[_Taken] = contextvars.ContextVar("taken")


async def together(calls: Sequence[Callable[[], Awaitable[T]]], limit: int) -> list[T]:
    """The results of several calls, at most `limit` under way; the first that fails ends the others.

    The images that they decode count as those of one request; see `Engine.plan`.

    Raises:
        Exception: of the first that failed.
    """
    free = asyncio.Semaphore(limit)

    async def one(call: Callable[[], Awaitable[T]]) -> T:
        async with free:
            return await call()

    if len(calls) == 1:  # the usual case needs no task of its own
        return [await calls[0]()]
    context = contextvars.copy_context()
    context.run(_taken.set, _taken.get(_Taken()))  # one for all, and for what these run together in turn
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(call), context=context.copy()) for call in calls]
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    return [task.result() for task in tasks]


async def outcome(call: Callable[[], Awaitable[T]]) -> T | Exception:
    """A call's result or its error: with `together`, each of several by itself."""
    try:
        return await call()
    except Exception as error:
        return error
