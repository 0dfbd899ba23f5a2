"""The order of a GPU's work: whatever the streams do first, each batch gets its own answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.engine.cuda import Forward, Graph, Lanes
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


def served(machine: Machine, seed: int) -> bool:
    """Whether 10 batches under way together get their answers: in graphs of three sizes, and without."""
    rng, order = np.random.default_rng(seed), random.Random(seed)
    lanes = Lanes(machine)
    with machine, torch.inference_mode():
        graphs: dict[int, Graph] = {}
        for size in (4, 2, 1):
            inputs = lanes.inputs(size, EXAMPLE)
            with lanes.turn, machine.on(lanes.compute):
                forward(inputs)
            with lanes.turn:
                graphs[size] = Graph(forward, inputs, lanes)
        under_way = []
        right = True
        for number in range(10):
            columns = batch(rng, 1 + number % 6)
            fitting = [size for size in graphs if size >= len(columns[0])]
            run: Forward = graphs[min(fitting)].replay if fitting else forward
            under_way.append((lanes.submit(run, columns), expected(columns)))
            while len(under_way) > order.randrange(4):
                pending, wanted = under_way.pop(order.randrange(len(under_way)))
                got = pending.wait()
                right &= all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))
        for pending, wanted in under_way:
            right &= all(np.array_equal(a, b) for a, b in zip(pending.wait(), wanted, strict=True))
    return right


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
        "record_event": 3,
        "synchronize": 1,
        "wait_event": 2,
    }


def test_outputs_of_a_graph_are_copied_before_its_memory_is_written_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Tensor, "clone", lambda tensor: tensor)
    assert not all(served(Machine(seed), seed) for seed in range(10))
