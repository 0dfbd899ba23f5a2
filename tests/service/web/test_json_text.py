"""JSON is counted before it is parsed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ImageTooLarge
from service.web import json_text
from service.web.images import STRUCTURE as IMAGES
from service.web.json_text import Structure, check_structure, parse_json
from service.web.v2.codec import STRUCTURE as TENSORS

SMALL = Structure(values=5, lists=3, objects=2, names=4, advice="; do otherwise")

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(DOCUMENTS)
def test_what_is_small_is_parsed_as_the_standard_library_does(document: Any) -> None:
    text = json.dumps(document).encode()
    assert parse_json(text, IMAGES) == json.loads(text)
    assert parse_json(memoryview(text), IMAGES) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"[1,2,3,4,5,6]", None),
        (b"[1,2,3,4,5,6,7]", "5 values"),
        (b"[[[1]]]", None),
        (b"[[[[1]]]]", "3 lists"),
        (b'{"a":{"b":1}}', None),
        (b'{"a":{"b":{}}}', "2 objects"),
        (b'{"a":1,"b":2,"c":3,"d":4}', None),
        (b'{"a":1,"b":2,"c":3,"d":4,"e":5}', "4 names"),
        (b'["' + b'\\"' * 15 + b'"]', "16 texts"),
        (b'["' + b"x" * 1000 + b'"]', None),
        (b" " * 1000 + b"1", None),
    ],
)
def test_each_bound(text: bytes, what: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (1, 7, 256 * 1024):
        monkeypatch.setattr(json_text, "_BLOCK", block)
        if what is None:
            parse_json(text, SMALL)
        else:
            with pytest.raises(ImageTooLarge, match=f"more than {what}; do otherwise"):
                parse_json(text, SMALL)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 10_000_000,
        b"[[]," * 5_000_000,
        b'{"inputs":[' + b"{}," * 5_000_000,
        b'{"a":' * 5_000_000,
        b'{"parameters":{' + b'"a":1,' * 3_000_000,
        b"[" + b"1," * 10_000_000,
        b"[" + b'"",' * 5_000_000,
        b"[" + b'" "' * 5_000_000,
    ],
)
@pytest.mark.parametrize("most", [IMAGES, TENSORS])
def test_what_no_client_sends_is_refused_before_it_is_parsed(
    text: bytes, most: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_text, "from_json", None)
    with pytest.raises(ImageTooLarge):
        parse_json(text, most)


def test_the_largest_input_of_a_model_here_fits_nested_or_flat() -> None:
    rows = [[[255] * 3] * 512] * 512
    for data in (rows, [rows], [255] * (512 * 512 * 3)):
        entry = {"name": "pixels", "shape": [1, 512, 512, 3], "datatype": "UINT8", "data": data}
        check_structure(json.dumps({"inputs": [entry]}).encode(), TENSORS)
