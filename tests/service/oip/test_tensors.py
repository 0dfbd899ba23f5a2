"""The protocol's tensors: BYTES and numbers, as bytes and as lists, true and contradictory."""

from __future__ import annotations

import base64
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.errors import ImageInvalid, ParameterInvalid
from service.oip.tensors import BYTES, DTYPES, InputTensor, Tensor, join_bytes, split_bytes

ELEMENTS = st.lists(st.binary(max_size=40), max_size=12)


@given(ELEMENTS)
def test_bytes_come_back(elements: list[bytes]) -> None:
    packed = join_bytes(elements)
    assert len(packed) == sum(4 + len(element) for element in elements)
    assert split_bytes(packed, len(elements)) == elements
    assert split_bytes(memoryview(packed), len(elements)) == elements
    tensor = Tensor("image", BYTES, (len(elements),), elements)
    assert InputTensor("image", BYTES, (len(elements), 1), tensor.raw()).elements() == elements


@given(ELEMENTS, st.integers(0, 20))
def test_another_number_of_elements_is_refused(elements: list[bytes], count: int) -> None:
    if count == len(elements):
        return
    with pytest.raises(ValueError, match="elements"):
        split_bytes(join_bytes(elements), count)


@given(ELEMENTS.filter(bool), st.data())
def test_what_is_cut_short_is_refused(elements: list[bytes], data: st.DataObject) -> None:
    packed = join_bytes(elements)
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(ValueError, match="element"):
        split_bytes(packed[:cut], len(elements))


def test_a_picture_without_its_length_is_told_what_is_missing() -> None:
    with pytest.raises(ParameterInvalid, match="its length in four bytes") as refused:
        InputTensor("image", BYTES, (1,), b"\xff\xd8\xff\xe0 a JPEG").elements()
    assert refused.value.parameter == "image"


def test_a_flood_of_empty_elements_ends_at_the_shape() -> None:
    with pytest.raises(ValueError, match="more than the 2 elements"):
        split_bytes(bytes(4_000_000), 2)


@given(st.sampled_from(sorted(DTYPES)), arrays.array_shapes(max_dims=3, max_side=4), st.data())
def test_numbers_come_back(datatype: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    values = data.draw(arrays.arrays(DTYPES[datatype], shape))
    tensor = Tensor("x", datatype, shape, values)
    back = InputTensor("x", datatype, shape, tensor.raw()).array()
    np.testing.assert_array_equal(back, values)
    assert (back.dtype, back.shape) == (DTYPES[datatype], shape)
    assert struct.pack("<I", 1) == Tensor("x", "UINT32", (1,), np.array([1], ">u4")).raw()


@given(
    st.sampled_from([name for name in sorted(DTYPES) if name != "UINT64"]),
    arrays.array_shapes(max_dims=3, max_side=4),
    st.data(),
)
def test_lists_come_back_nested_and_flat(datatype: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    values = data.draw(arrays.arrays(DTYPES[datatype], shape))
    for form in (values.tolist(), Tensor("x", datatype, shape, values).flat()):
        np.testing.assert_array_equal(InputTensor("x", datatype, shape, form).array(), values)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "words"),
    [
        ("UINT8", (2, 2), [1, 2, 3], "3 values"),
        ("UINT8", (2,), [1, 256], "not UINT8"),
        ("UINT8", (2,), [1, -1], "not UINT8"),
        ("UINT8", (2,), [1, 2.5], "not UINT8"),
        ("UINT8", (2,), [True, False], "not UINT8"),
        ("UINT8", (2,), ["1", "2"], "not UINT8"),
        ("UINT8", (2,), [1, None], "not UINT8"),
        ("UINT8", (2,), ["x" * 10_000_000, *[""] * 100_000], "not UINT8"),  # 4 TB as an array
        ("UINT8", (1,), [10**30], "not UINT8"),
        ("UINT8", (3,), [[1, 2], [3]], "different lengths"),
        ("BOOL", (1,), [1], "not BOOL"),
        ("FP32", (1,), ["x"], "not FP32"),
        ("UINT8", (2, 2), b"123", "3 bytes"),
        ("FP32", (2,), b"1234", "has 8"),
    ],
)
def test_values_that_do_not_fit(datatype: str, shape: tuple[int, ...], data: object, words: str) -> None:
    with pytest.raises(ParameterInvalid, match=words):
        InputTensor("x", datatype, shape, data).array()  # type: ignore[arg-type]


def test_pictures_in_lists_are_base64_text_or_bytes() -> None:
    text = base64.b64encode(b"picture").decode()
    for data in ([text], [[text]], [f"data:image/png;base64,{text}"], [b"picture"]):
        assert InputTensor("image", BYTES, (1, 1), data).elements() == [b"picture"]
    with pytest.raises(ImageInvalid, match=r"image\[1\]"):
        InputTensor("image", BYTES, (2,), [text, "no base64!"]).elements()
    for wrong in ([text, text], [7], []):
        with pytest.raises(ParameterInvalid):
            InputTensor("image", BYTES, (1,), wrong).elements()
