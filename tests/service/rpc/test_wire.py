"""The count of a message's fields in its bytes: true to protobuf, never surprised, and bounded."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ParameterInvalid
from service.oip.stubs import open_inference_pb2 as oi
from service.rpc.stubs import vision_pb2 as pb
from service.rpc.wire import ENTRIES, FIELDS, FRAMING, NUMBERS, TENSORS, check, layout_of
from tests.paths import SHARED
from tests.service.rpc.messages import METHODS, field, filled, hostile, path

LAYOUTS = {method: layout_of(method.input_type, TENSORS) for method in METHODS}
methods = st.sampled_from(METHODS)
HOSTILE = SHARED / "cases" / "hostile"
INFER = layout_of(oi.ModelInferRequest.DESCRIPTOR, TENSORS)


def accepts(method: MethodDescriptor, raw: bytes) -> bool:
    try:
        check(raw, LAYOUTS[method])
    except ParameterInvalid:
        return False
    return True


def parses(method: MethodDescriptor, raw: bytes) -> bool:
    kind: Any = message_factory.GetMessageClass(method.input_type)
    try:
        kind.FromString(raw)
    except DecodeError:
        return False
    return True


@st.composite
def wire(draw: st.DrawFn, depth: int = 2) -> bytes:
    """Any fields without groups, some of them nested, some of them known to a method."""
    numbers = st.integers(1, 9) | st.integers(1, 2**29 - 1)
    flat = st.one_of(
        st.builds(field, numbers, st.just(0), st.integers(0, 2**64 - 1)),
        st.builds(field, numbers, st.just(1), st.binary(min_size=8, max_size=8)),
        st.builds(field, numbers, st.just(5), st.binary(min_size=4, max_size=4)),
        st.builds(field, numbers, st.just(2), st.binary(max_size=12)),
    )
    if depth:
        flat |= st.builds(field, numbers, st.just(2), wire(depth - 1))
    return b"".join(draw(st.lists(flat, max_size=6)))


@given(method=methods, seed=st.integers(0, 2**32))
def test_what_a_client_sends_is_accepted(method: MethodDescriptor, seed: int) -> None:
    assert accepts(method, filled(method.input_type, random.Random(seed)).SerializeToString())


@given(method=methods, raw=wire())
def test_what_protobuf_parses_is_accepted(method: MethodDescriptor, raw: bytes) -> None:
    if parses(method, raw):
        assert accepts(method, raw)


@given(method=methods, raw=st.binary(max_size=300))
def test_any_bytes_are_accepted_or_refused(method: MethodDescriptor, raw: bytes) -> None:
    accepts(method, raw)


@given(method=methods, raw=wire(), cut=st.integers(1, 30))
def test_what_is_cut_short_is_refused_as_by_protobuf(method: MethodDescriptor, raw: bytes, cut: int) -> None:
    short = raw[:-cut]
    if not accepts(method, short):
        assert not parses(method, short)


@given(method=methods, seed=st.integers(0, 2**32))
def test_mutated_messages_are_accepted_or_refused(method: MethodDescriptor, seed: int) -> None:
    accepts(method, hostile(method, random.Random(seed)))


@pytest.mark.parametrize("method", METHODS, ids=path)
def test_no_field_is_repeated_without_bound(method: MethodDescriptor) -> None:
    for number in (*range(1, 9), 16, 2**29 - 1):
        for one in (field(number, 2), field(number, 0, 0), field(number, 5, bytes(4))):
            assert not accepts(method, one * (FIELDS + 1))
            assert accepts(method, one * ENTRIES)


@pytest.mark.parametrize("around", [(5,), (4, 2), (5, 4), (5, 5), (6, 2), (5, 4, 2)])
def test_fields_count_at_any_depth(around: tuple[int, ...]) -> None:
    raw = field(9, 0, 1) * FIELDS
    for number in reversed(around):
        raw = field(number, 2, raw)
    with pytest.raises(ParameterInvalid):
        check(raw, INFER)


@pytest.mark.parametrize("number", [4, 5, 6])
def test_messages_in_a_message_are_few(number: int) -> None:
    check(field(number, 2) * ENTRIES, INFER)
    with pytest.raises(ParameterInvalid):
        check(field(number, 2) * (ENTRIES + 1), INFER)
    parameters = field(4, 2) * (ENTRIES + 1)
    with pytest.raises(ParameterInvalid):
        check(field(5, 2, parameters), INFER)


def test_a_group_is_refused() -> None:
    for raw in (field(1, 3), field(1, 3) + field(1, 4), field(30, 3) * 100 + field(30, 4) * 100):
        with pytest.raises(ParameterInvalid):
            check(raw, INFER)


def test_an_image_is_free_and_text_is_not() -> None:
    layout = layout_of(pb.ClassifyRequest.DESCRIPTOR)
    check(pb.ClassifyRequest(image=bytes(30_000_000), model="x").SerializeToString(), layout)
    check(pb.ClassifyRequest(model="x" * (FRAMING - 100)).SerializeToString(), layout)
    for raw in (
        pb.ClassifyRequest(model="x" * FRAMING).SerializeToString(),
        field(14, 2, bytes(FRAMING)),
        field(2, 2, bytes(FRAMING // 2)) * 3,
    ):
        with pytest.raises(ParameterInvalid):
            check(raw, layout)


def test_numbers_of_a_tensor_are_counted_and_those_of_a_shape_are_text() -> None:
    def request(**values: Any) -> bytes:
        message = oi.ModelInferRequest()
        message.inputs.add(**values)
        return message.SerializeToString()

    many = oi.InferTensorContents(uint_contents=[1] * 1_000_000)
    assert check(request(contents=many), INFER) == 1_000_000
    for contents in (
        oi.InferTensorContents(bool_contents=[True] * (NUMBERS + 1)),
        oi.InferTensorContents(fp64_contents=[1.0] * (NUMBERS // 8 + 1)),
    ):
        with pytest.raises(ParameterInvalid):
            check(request(contents=contents), INFER)
    half = oi.InferTensorContents(bool_contents=[True] * (NUMBERS // 2 + 1))
    with pytest.raises(ParameterInvalid):
        check(request(contents=half) * 2, INFER)
    with pytest.raises(ParameterInvalid):
        check(request(shape=[1] * (FRAMING + 1)), INFER)


@pytest.mark.parametrize("name", ["grpc-empty-inputs.pb", "grpc-malformed.pb"])
def test_hostile_files(name: str) -> None:
    if not (HOSTILE / name).is_file():
        pytest.skip("the shared data folder is not beside the checkout")
    for method in METHODS:
        assert not accepts(method, (HOSTILE / name).read_bytes())
