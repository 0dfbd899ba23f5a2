"""The reader of TensorFlow Lite files, on the published file and on broken copies of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detection.tflite import read_convolutions
from models.errors import WeightsError
from models.weights import Store, standard_catalogue


@pytest.fixture(scope="module")
def published() -> Path:
    return Store().originals(standard_catalogue()["efficientdet-lite0"])["weights"]


def test_every_convolution_is_read_in_its_order(published: Path) -> None:
    found = read_convolutions(published)
    assert len(found) == 182
    assert [one.weight.shape for one in found[:3]] == [(32, 3, 3, 3), (32, 1, 3, 3), (16, 32, 1, 1)]
    for one in found:
        assert one.bias.shape == one.weight.shape[:1]
        assert one.weight.dtype == one.bias.dtype == np.float32
        assert np.isfinite(one.weight).all()


@pytest.mark.parametrize(
    "data", [b"", b"TFL3", b"\x10\0\0\0TFL3", b"\xff\xff\xff\xffTFL3" + bytes(40), bytes(64)]
)
def test_another_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other.tflite"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"other\.tflite"):
        read_convolutions(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_broken_file_is_refused_or_read_but_never_worse(
    published: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The tables lie at the end of the file; weights, which may be anything, before them."""
    whole = published.read_bytes()
    tables = len(whole) - 120_000
    broken = bytearray(whole[: data.draw(st.integers(tables + 1, len(whole)))])
    for _ in range(data.draw(st.integers(0, 8))):
        place = data.draw(st.integers(0, 31) | st.integers(tables, len(broken) - 1))
        broken[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "broken.tflite"
    path.write_bytes(broken)
    try:
        found = read_convolutions(path)
    except WeightsError:
        return
    assert all(one.weight.ndim == 4 for one in found)
