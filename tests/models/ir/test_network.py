"""A stage computes any number of items, in blocks of few sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import Tensor, nn

from models.ir.network import Networks, blocks
from models.pipeline import Stage, eager
from tests.service.doubles import SHAPE, MeanPipeline


class Twice(nn.Module):
    """float32 [M, 2, 3] -> twice of it, and the sums [M]."""

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * items, items.sum(dim=(1, 2))


@given(st.integers(0, 1000), st.sampled_from([(1,), (4, 1), (8, 4, 2, 1)]))
def test_blocks_follow_on_each_other_and_are_of_few_sizes(count: int, sizes: tuple[int, ...]) -> None:
    found = list(blocks(count, sizes))
    edges = [0, *(end for _, end in found)]
    assert [begin for begin, _ in found] == edges[:-1]
    assert edges[-1] == count
    assert {end - begin for begin, end in found} <= set(sizes)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 23])
def test_a_stage_takes_any_number_of_items_in_their_order(count: int) -> None:
    pipeline = MeanPipeline()
    pipeline.stages = {"twice": Stage(Twice, (2, 3))}
    stage = Networks(pipeline, "float32", 1).stages["twice"]
    items = np.random.default_rng(count).random((count, 2, 3), np.float32)
    twice, sums = stage(items)
    assert_allclose(twice, 2 * items, rtol=1e-6)
    assert_allclose(sums, items.sum((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("shapes", [(SHAPE,), (SHAPE, (2, *SHAPE[1:]))])
@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_a_module_gives_each_item_of_a_batch_its_outputs(
    count: int, shapes: tuple[tuple[int, int, int], ...]
) -> None:
    pipeline = MeanPipeline()
    pipeline.shapes = shapes
    networks = Networks(pipeline, "float32", 1)
    for shape in pipeline.shapes:
        batch = np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)
        for found, wanted in zip(networks.run([batch]), eager(pipeline.module, batch), strict=True):
            assert_allclose(found, wanted, rtol=1e-6)
