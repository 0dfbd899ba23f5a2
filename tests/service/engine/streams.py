"""CUDA's rules without CUDA: the work of streams is done late, in random orders that events allow.

Memory holds `POISON` until the work that writes it is done, and again as soon as it may have been given to
another tensor. So whatever a missing event or a tensor that is let go too early could spoil is spoilt, with
some seed.
"""

from __future__ import annotations

import contextlib
import mmap
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only

POISON = 0xFF  # NaN as a float, 255 as a byte
Work = Callable[[], None]


def site() -> str:
    """The line that called a method of this file."""
    frame = sys._getframe(2)
    return f"{frame.f_code.co_name}:{frame.f_lineno - frame.f_code.co_firstlineno}"


@dataclass(eq=False)
class Ticket:
    """A point in a stream's work."""

    done: bool = False


class Event:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.ticket = Ticket(done=True)  # one that was not recorded has no waiter

    def synchronize(self) -> None:
        self._machine.go.wait()
        if self._machine.obeys("synchronize", site()):
            self._machine.work_until(self.ticket)


class Stream:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.queue: deque[Work | Ticket] = deque()  # a ticket here is one to wait for

    def wait_event(self, event: Event) -> None:
        if self._machine.obeys("wait_event", site()):
            self.queue.append(event.ticket)

    def record_event(self, event: Event) -> Event:
        if self._machine.obeys("record_event", site()):
            event.ticket = self.mark()
        return event

    def mark(self) -> Ticket:
        """A ticket that is done when all work so far is."""
        ticket = Ticket()
        self.queue.append(lambda: setattr(ticket, "done", True))
        return ticket


@dataclass(eq=False)
class Block:
    """Memory of one tensor, and of its views."""

    bytes: NDArray[np.uint8]
    owner: Stream | None
    alive: StorageWeakRef
    used_by: set[Stream] = field(default_factory=set)

    def poison(self) -> None:
        self.bytes[:] = POISON


class Graph:
    """What was captured."""

    def __init__(self, machine: Machine, pool: list[Block]) -> None:
        self._machine, self.pool = machine, pool
        self.work: list[Work] = []

    def replay(self) -> None:
        stream = self._machine.current
        assert stream is not None

        def all_of_it() -> None:
            for block in self.pool:  # its graphs share their memory
                block.poison()
            for work in self.work:
                work()

        stream.queue.append(all_of_it)


class Machine(TorchDispatchMode):
    """A `service.engine.cuda.Runtime`; what torch is told within it, and on a stream, is done late.

    Args:
        seed: of the order.
        deaf: calls that have no effect, as `sites` names them.

    Attributes:
        current: the stream that work goes to.
        sites: of the calls that keep work in order.
        registered: memory of the host that copies read where it lies: address -> bytes.
        spoilt: what became of registered memory while a copy from it had not been done.
        go: the host waits for no event before it is set.
    """

    device = torch.device("cpu")

    def __init__(self, seed: int = 0, deaf: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._deaf = deaf
        self.sites: set[str] = set()
        self.current: Stream | None = None
        self._capturing: Graph | None = None
        self._streams: list[Stream] = []
        self._ahead: Any = None  # a stream that runs ahead of the others for a while
        self._blocks: dict[int, Block] = {}
        self._memory: list[NDArray[np.uint8]] = []  # never given back: an address is one block's
        self.registered: dict[int, int] = {}
        self._reads: list[tuple[int, Ticket]] = []
        self.spoilt: list[str] = []
        self.go = threading.Event()
        self.go.set()

    # --- the runtime

    def stream(self) -> Stream:
        self._streams.append(Stream(self))
        return self._streams[-1]

    @contextlib.contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def event(self) -> Event:
        return Event(self)

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        with _disable_current_modes():
            return self._allocated(torch.empty(tuple(shape), dtype=dtype, device="meta"), None)

    def keep(self, tensor: Tensor, stream: Stream) -> None:
        if self.obeys("keep", site()):
            self._blocks[tensor.untyped_storage().data_ptr()].used_by.add(stream)

    def register(self, memory: memoryview) -> None:
        address = np.frombuffer(memory, np.uint8).ctypes.data
        if address % mmap.PAGESIZE or memory.nbytes % mmap.PAGESIZE or address in self.registered:
            raise RuntimeError("invalid argument")
        self.registered[address] = memory.nbytes

    def unregister(self, memory: memoryview) -> None:
        address = np.frombuffer(memory, np.uint8).ctypes.data
        if self.registered.pop(address, None) is None:
            raise RuntimeError("pointer does not correspond to a registered memory region")
        if any(start == address and not read.done for start, read in self._reads):
            self.spoilt.append("unregistered")

    def is_direct(self, array: NDArray[Any]) -> bool:
        return self._lies_in(array.ctypes.data) is not None

    def pool(self) -> list[Block]:
        return []

    @contextlib.contextmanager
    def capture(self, stream: Stream, pool: list[Block]) -> Iterator[Graph]:
        self.work_until(*(one.mark() for one in self._streams))
        self._capturing = graph = Graph(self, pool)
        try:
            with self.on(stream):
                yield graph
        finally:
            self._capturing = None

    def release(self) -> None:
        pass

    # --- the machine

    def obeys(self, call: str, where: str) -> bool:
        name = f"{call} in {where}"
        self.sites.add(name)
        return name not in self._deaf

    def work_until(self, *tickets: Ticket) -> None:
        """Does work in a random order, until these are done."""
        self._let_go()
        while not all(ticket.done for ticket in tickets):
            ready = []
            for stream in self._streams:
                while stream.queue and isinstance(first := stream.queue[0], Ticket) and first.done:
                    stream.queue.popleft()
                if stream.queue and not isinstance(stream.queue[0], Ticket):
                    ready.append(stream)
            assert ready, "every stream waits for another"
            if self._ahead not in ready or self._random.random() < 0.1:
                self._ahead = self._random.choice(ready)
            work = self._ahead.queue.popleft()
            assert not isinstance(work, Ticket)
            work()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self._let_go()
        if self.current is None:
            return func(*args, **kwargs)
        aliases = [
            returned.alias_info for returned in func._schema.returns if returned.alias_info is not None
        ]
        if not any(alias.is_write for alias in aliases):
            with self:  # what is made of other operations
                made = func.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
            if aliases:
                return func(*args, **kwargs)  # a view
        inner_args, inner_kwargs = tree_map_only(Tensor, self._inner, (args, kwargs))
        if any(alias.is_write for alias in aliases):
            self._put(lambda: func(*inner_args, **inner_kwargs))
            for one in args[1:]:
                if isinstance(one, Tensor) and (start := self._lies_in(one.data_ptr())) is not None:
                    self._watch(start, one)
            return args[0]
        meta_args, meta_kwargs = tree_map_only(Tensor, lambda one: one.to("meta"), (args, kwargs))
        if "device" in meta_kwargs:
            meta_kwargs = {**meta_kwargs, "device": torch.device("meta")}
        results = func(*meta_args, **meta_kwargs)
        outputs = tree_map_only(Tensor, lambda one: self._allocated(one, self.current), results)
        targets = [self._inner(one) for one in ([outputs] if isinstance(outputs, Tensor) else outputs)]
        if "empty" in func._schema.name:
            return outputs

        def work() -> None:
            computed = func(*inner_args, **inner_kwargs)
            for target, one in zip(
                targets, [computed] if isinstance(computed, Tensor) else computed, strict=True
            ):
                target.copy_(one)

        self._put(work)
        return outputs

    def _lies_in(self, address: int) -> int | None:
        """Where the registered memory begins that an address is in."""
        found = (start for start, size in tuple(self.registered.items()) if start <= address < start + size)
        return next(found, None)

    def _watch(self, start: int, source: Tensor) -> None:
        """A copy from registered memory has been put on the stream: no write there before it is done."""
        assert self.current is not None
        held = source.numpy()
        before = held.copy()

        def compare() -> None:
            if not np.array_equal(before, held):
                self.spoilt.append("written")

        self.current.queue.append(compare)
        self._reads = [(where, read) for where, read in self._reads if not read.done]
        self._reads.append((start, self.current.mark()))

    def _put(self, work: Work) -> None:
        assert self.current is not None
        if self._capturing is not None:
            self._capturing.work.append(work)
        else:
            self.current.queue.append(work)

    def _allocated(self, like: Tensor, owner: Stream | None) -> Tensor:
        memory = np.full(max(16, like.untyped_storage().nbytes()), POISON, np.uint8)
        self._memory.append(memory)
        whole = torch.from_numpy(memory)
        block = Block(memory, owner, StorageWeakRef(whole.untyped_storage()))
        if self._capturing is not None:
            self._capturing.pool.append(block)
            block.owner = None  # the graph's for good
        self._blocks[memory.ctypes.data] = block
        count = memory.nbytes // like.dtype.itemsize
        return whole[: count * like.dtype.itemsize].view(like.dtype).as_strided(like.shape, like.stride())

    def _inner(self, tensor: Tensor) -> Tensor:
        """The same memory, free; a pinned one is in use by the stream."""
        block = self._blocks.get(tensor.untyped_storage().data_ptr())
        if block is None:
            return tensor  # a weight
        if block.owner is None and self.current is not None:
            block.used_by.add(self.current)
        count = block.bytes.nbytes // tensor.dtype.itemsize
        flat = torch.from_numpy(block.bytes)[: count * tensor.dtype.itemsize].view(tensor.dtype)
        return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def _let_go(self) -> None:
        """Memory that no tensor holds any more may be another's, after the work of its own stream."""
        for address, block in list(self._blocks.items()):
            if block.owner is not None and block.alive.expired():
                del self._blocks[address]
                tickets = [stream.mark() for stream in block.used_by]
                block.owner.queue.extend([*tickets, block.poison])

    def __enter__(self) -> Self:
        super().__enter__()
        return self
