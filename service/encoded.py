"""Binary data as JSON has it: base64."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Final

_ALPHABET: Final = str.maketrans("-_", "+/")


def from_base64(text: str) -> bytes:
    """What a text in base64, or a `data:` URL of one, stands for: in lines or not, in either alphabet of
    RFC 4648, with padding or without.

    Raises:
        ValueError: it is no base64.
    """
    text = text.partition(",")[2] if text.startswith("data:") else text
    with suppress(ValueError):  # most are plain
        return base64.b64decode(text, validate=True)
    text = "".join(map(str.strip, text.splitlines())).translate(_ALPHABET).rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
