"""The order of a GPU's work: whatever the streams do first, each batch gets its own answer."""

from __future__ import annotations

import contextlib
import mmap
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.engine.cuda import Forward, Graph, Lanes, Pending, Runtime
from tests.service.engine.streams import Machine

SHAPE = (4, 4, 3)
EXAMPLE = (np.zeros(SHAPE, np.uint8), np.zeros(2, np.float32))


def forward(batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """uint8 [N, 4, 4, 3], float32 [N, 2] -> float32 [N, 3], int64 [N, 2], in some steps."""
    images, numbers = batch
    hidden = images.float()
    hidden = hidden * 2 + 1
    return hidden.mean(dim=(1, 2)) + numbers.sum(1, keepdim=True), numbers.long()


def expected(columns: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    images, numbers = columns
    mean = (images.astype(np.float32) * 2 + 1).mean((1, 2))
    return [mean + numbers.sum(1, keepdims=True), numbers.astype(np.int64)]


def batch(rng: np.random.Generator, size: int) -> list[NDArray[Any]]:
    return [
        rng.integers(0, 255, (size, *SHAPE), np.uint8),
        rng.integers(0, 99, (size, 2)).astype(np.float32),
    ]


class Slots:
    """Registered memory, in which rows of batches lie; one that is given back is written to at once."""

    def __init__(self, machine: Machine) -> None:
        memory = memoryview(mmap.mmap(-1, 24 * mmap.PAGESIZE))
        self._free = [memory[start : start + mmap.PAGESIZE] for start in range(0, len(memory), mmap.PAGESIZE)]
        for room in self._free:
            machine.register(room)

    def lay(self, column: NDArray[Any]) -> tuple[list[NDArray[Any]], list[memoryview]]:
        rooms = [self._free.pop() for _ in column]
        rows = [
            np.frombuffer(room, row.dtype, row.size).reshape(row.shape)
            for room, row in zip(rooms, column, strict=True)
        ]
        for place, row in zip(rows, column, strict=True):
            place[...] = row
        return rows, rooms

    def give_back(self, rooms: list[memoryview]) -> None:
        for room in rooms:
            room[:] = b"\xff" * len(room)
        self._free += rooms


def broken(batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
    raise ZeroDivisionError


def served(machine: Machine, seed: int) -> bool:
    """Whether 10 batches under way together get their answers: in graphs of three sizes, and without; from
    registered memory and from other. Between them some fail."""
    rng, order = np.random.default_rng(seed), random.Random(seed)
    lanes, slots = Lanes(machine), Slots(machine)
    with machine, torch.inference_mode():
        graphs: dict[int, Graph] = {}
        for size in (4, 2, 1):
            inputs = lanes.inputs(size, EXAMPLE)
            with lanes.turn, machine.on(lanes.compute):
                forward(inputs)
            with lanes.turn:
                graphs[size] = Graph(forward, inputs, lanes)
        under_way: list[tuple[Pending, list[NDArray[Any]], list[memoryview]]] = []
        right = True

        def end(number: int) -> bool:
            pending, wanted, rooms = under_way.pop(number)
            got = pending.wait()
            slots.give_back(rooms)
            return all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))

        for number in range(10):
            columns: list[Any] = batch(rng, 1 + number % 6)
            wanted, rooms = expected(columns), []
            if number % 2:  # one of the inputs
                columns[0], rooms = slots.lay(columns[0])
            fitting = [size for size in graphs if size >= len(columns[0])]
            run: Forward = graphs[min(fitting)].replay if fitting else forward
            under_way.append((lanes.submit(run, columns), wanted, rooms))
            if number % 3 == 0:
                columns[0], rooms = slots.lay(columns[0])
                with contextlib.suppress(ZeroDivisionError):
                    lanes.submit(broken, columns)
                slots.give_back(rooms)
            while len(under_way) > order.randrange(4):
                right &= end(order.randrange(len(under_way)))
        while under_way:
            right &= end(0)
    return right and not machine.spoilt


@pytest.mark.parametrize("seed", range(20))
def test_every_batch_gets_its_own_answer_in_every_order(seed: int) -> None:
    assert served(Machine(seed), seed)


def sites() -> list[str]:
    machine = Machine()
    served(machine, 0)
    return sorted(machine.sites)


@pytest.mark.parametrize("site", sites())
def test_without_any_one_call_that_keeps_the_order_some_answer_is_wrong(site: str) -> None:
    assert not all(served(Machine(seed, frozenset({site})), seed) for seed in range(20))


def test_each_kind_of_call_is_tried() -> None:
    found = [site.partition(" in ")[0] for site in sites()]
    assert {name: found.count(name) for name in found} == {
        "keep": 2,
        "record_event": 4,
        "synchronize": 2,
        "wait_event": 2,
    }


def test_outputs_of_a_graph_are_copied_before_its_memory_is_written_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Tensor, "clone", lambda tensor: tensor)
    assert not all(served(Machine(seed), seed) for seed in range(10))


@pytest.mark.skipif(not hasattr(torch._C, "_cudart"), reason="this torch has no CUDA runtime")
@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA would not refuse")
def test_what_the_cuda_runtime_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "cudart", lambda: torch._C._cudart)  # without a device, too
    runtime = object.__new__(Runtime)  # its settings are the whole process's
    memory = memoryview(mmap.mmap(-1, mmap.PAGESIZE))
    for refused in (runtime.register, runtime.unregister):
        with pytest.raises(RuntimeError, match=r"driver.*\(\d+\)"):
            refused(memory)


def test_cuda_is_asked_for_what_torch_does_not_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait sleep, other threads may allocate while a graph is captured, float32 is IEEE's."""
    asked: dict[str, Any] = {}

    def capture(graph: Any, **options: Any) -> contextlib.AbstractContextManager[None]:
        asked.update(options)
        return contextlib.nullcontext()

    monkeypatch.setattr(torch.cuda, "Event", asked.update)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    arithmetic: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [one.allow_tf32 for one in arithmetic]
    try:
        runtime = Runtime(torch.device("cuda"))
        assert [one.allow_tf32 for one in arithmetic] == [False, False]
        torch.export.export(torch.nn.Identity(), (torch.zeros(1),))  # fails where it asks and they disagree
    finally:
        for one, allowed in zip(arithmetic, before, strict=True):
            one.allow_tf32 = allowed
    runtime.event()
    with runtime.capture(None, None):
        pass
    assert (asked["blocking"], asked["capture_error_mode"]) == (True, "thread_local")


def test_no_graph_is_captured_beside_another_and_no_memory_given_back_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside, most = 0, 0

    @contextlib.contextmanager
    def capture(graph: Any, **options: Any) -> Iterator[None]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)  # the others reach it meanwhile
        yield
        inside -= 1

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
    runtime = Runtime(torch.device("cuda"))

    def captured() -> None:
        with runtime.capture(None, None):
            pass

    def released() -> None:
        with capture(None):
            pass

    monkeypatch.setattr(torch.cuda, "empty_cache", released)
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work) for _ in range(4) for work in (captured, runtime.release)]:
            done.result()
    assert most == 1
