"""Slots in shared memory: where a front end lays prepared images for the device process, and finds results.

Each connection has memory of its own (`memfd_create`), which the front end makes and hands over with the
connection. It has no name: nothing is left in /dev/shm when a process is killed, and the size of /dev/shm,
64 MiB in a container, is no limit. Both processes are of one server and trust each other: what is not an
array crosses as a pickle. The memory is taken as it is touched, and free slots are used again last in, first
out.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import pickle
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from typing import Any, Final

import numpy as np

from models.pipeline import Prepared

ALIGN: Final = 64
"""Bytes: a cache line, and what OpenVINO and CUDA want of an array."""

SMALL: Final = 1024
"""Bytes up to which an array goes with the message: a copy into the slot would cost more."""

LEAST: Final = mmap.PAGESIZE
"""Bytes of the smallest slot: results of small images find room too."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The slots of one model: `count` of `size` bytes each."""

    model: str
    size: int
    count: int


class Region:
    """The mapped memory of one connection.

    Args:
        file: descriptor; it is not kept.
        layouts: of each model, one behind the other.

    Raises:
        ValueError: the memory is smaller than that.
    """

    def __init__(self, file: int, layouts: Sequence[Layout]) -> None:
        self.layouts = tuple(layouts)
        *self._starts, size = accumulate((one.size * one.count for one in layouts), initial=0)
        if os.fstat(file).st_size < size:
            raise ValueError(f"{os.fstat(file).st_size} bytes of shared memory, not {size}")
        # never closed by hand: arrays refer to it, and it is unmapped with the last of them
        self._bytes = memoryview(mmap.mmap(file, size))

    def room(self, model: int, slot: int) -> memoryview:
        """The bytes of a slot.

        Raises:
            ValueError: there is none of that number.
        """
        if not (0 <= model < len(self.layouts) and 0 <= slot < self.layouts[model].count):
            raise ValueError(f"there is no slot {slot} of model {model}")
        size = self.layouts[model].size
        start = self._starts[model] + slot * size
        return self._bytes[start : start + size]


def share(layouts: Sequence[Layout]) -> int:
    """Makes the memory for them: a descriptor, of which the size is fixed.

    Raises:
        OSError: there is none.
    """
    file = os.memfd_create("lynceus-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, sum(one.size * one.count for one in layouts))
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(file)
        raise
    return file


def dump(value: Any, room: memoryview) -> tuple[list[int], bytes]:
    """Lays a value's arrays in a slot, as far as there is room; the others go with the pickle.

    Returns:
        how many bytes each array in the slot has, and the pickle of the rest.
    """
    sizes: list[int] = []
    end = 0

    def lay(buffer: pickle.PickleBuffer) -> bool:
        nonlocal end
        with buffer.raw() as raw:
            if raw.nbytes <= SMALL or end + raw.nbytes > len(room):
                return True  # into the pickle
            room[end : end + raw.nbytes] = raw
            sizes.append(raw.nbytes)
            end += _aligned(raw.nbytes)
        return False

    return sizes, pickle.dumps(value, protocol=5, buffer_callback=lay)


def load(sizes: Sequence[int], pickled: bytes, room: memoryview, *, copy: bool = False) -> Any:
    """The value that was dumped; its arrays lie in the slot still, unless they are copied.

    Raises:
        ValueError: the arrays would reach beyond the slot.
    """
    buffers: list[memoryview | bytearray] = []
    end = 0
    for size in sizes:
        if end + size > len(room):
            raise ValueError("an array that reaches beyond its slot")
        view = room[end : end + size]
        buffers.append(bytearray(view) if copy else view)
        end += _aligned(size)
    return pickle.loads(pickled, buffers=buffers)  # noqa: S301 (of this server's own process)


def size_of(prepared: Prepared) -> int:
    """Bytes of a slot that such an image takes."""
    sizes: list[int] = []
    count = lambda one: sizes.append(one.raw().nbytes)  # noqa: E731
    pickle.dumps(_contiguous(prepared), protocol=5, buffer_callback=count)
    taken = sum(_aligned(size) for size in sizes)
    return max(LEAST, -(-taken // mmap.PAGESIZE) * mmap.PAGESIZE)


class State(Enum):
    """Of a slot that is claimed; see `Claim`."""

    CLAIMED = "claimed"
    FILLING = "filling"
    FILLED = "filled"
    SENT = "sent"
    OVER = "over"


class Claim:
    """One slot while it belongs to one image. `fill` is called in a thread, the rest in the event loop.

    claimed -> filling -> filled -> sent -> over. The request may leave at any time; the slot is free again
    once no process can touch it any more: at once, when the thread has filled it, or, if the device process
    knows of it, with its answer.

    Attributes:
        slot: its number.
        sequence: of the claim: an answer to another one is none to this one.
        room: the bytes.
    """

    __slots__ = ("_free", "_left", "_lock", "_state", "room", "sequence", "slot")

    def __init__(self, slot: int, sequence: int, room: memoryview, free: Callable[[int], None]) -> None:
        self.slot, self.sequence, self.room = slot, sequence, room
        self._free = free
        self._lock = threading.Lock()
        self._state: State = State.CLAIMED
        self._left = False

    def fill(self, prepare: Callable[[], Prepared]) -> tuple[list[int], bytes] | None:
        """Prepares an image and lays it in the slot.

        Returns:
            as `dump`; None: its request has left.

        Raises:
            Exception: of the preparation; the slot is still this claim's.
        """
        with self._lock:
            if self._left:
                return None
            self._state = State.FILLING
        try:
            return dump(_contiguous(prepare()), self.room)
        finally:
            self._filled()

    def _filled(self) -> None:
        with self._lock:
            self._state = State.FILLED
            left = self._left
        if left:
            self.end()

    def sent(self) -> None:
        """The device process is told of it."""
        self._state = State.SENT

    def leave(self) -> bool:
        """Its request has left; whether the device process has to be told."""
        with self._lock:
            if self._left or self._state is State.OVER:
                return False
            self._left = True
            state = self._state
        if state in (State.CLAIMED, State.FILLED):
            self.end()
        return state is State.SENT

    def end(self) -> None:
        """No process touches it any more: the device process has answered, and what it said has been read."""
        self._state = State.OVER
        self._free(self.slot)


class Slots:
    """The slots of one model in a front end.

    Args:
        region: where they lie.
        model: its number there.
    """

    def __init__(self, region: Region, model: int) -> None:
        self._region, self._model = region, model
        self._free = list(range(region.layouts[model].count))  # its methods are one step for other threads
        self._sequence = 0

    @property
    def free(self) -> int:
        """How many are."""
        return len(self._free)

    def claim(self) -> Claim | None:
        """One that is free, if any is."""
        if not self._free:
            return None
        slot = self._free.pop()
        self._sequence += 1
        return Claim(slot, self._sequence, self._region.room(self._model, slot), self._free.append)


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def _contiguous(prepared: Prepared) -> Prepared:
    """With inputs that are pickled as one buffer each."""
    if all(one.flags.c_contiguous for one in prepared.inputs):
        return prepared
    return Prepared(tuple(np.ascontiguousarray(one) for one in prepared.inputs), prepared.context)
