"""JSON whose cost is known before it is parsed.

A parser's time and memory grow with the lists, objects, names and numbers of a text, by 50 to 500 bytes and
nanoseconds each, and it holds the interpreter's lock meanwhile; a long text in quotes costs next to
nothing. So the characters that begin or part them are counted first, at memory speed.
"""

from __future__ import annotations

import codecs
import gc
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import from_json

from models.errors import ImageTooLarge

_BLOCK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Structure:
    """Most of what makes a JSON text expensive; characters within texts count as well.

    Attributes:
        values: commas.
        lists: opening brackets.
        objects: opening braces.
        names: colons, and half as many quotes again: names and texts.
        advice: ends the error's text.
    """

    values: int
    lists: int
    objects: int
    names: int
    advice: str = ""


def parse_json(text: bytes | memoryview, most: Structure) -> Any:
    """A JSON text as Python objects, if it has no more structure than this.

    Raises:
        ImageTooLarge: it has more.
        ValueError: it is not JSON.
    """
    check_structure(text, most)
    # The collector looks for cycles whenever many containers have been made, and a parser makes nothing else
    # and no cycle: of 300,000 lists it would take nine tenths of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        return from_json(bytes(text).removeprefix(codecs.BOM_UTF8))
    finally:
        if collects:
            gc.enable()


def check_structure(text: bytes | memoryview, most: Structure) -> None:
    """
    Raises:
        ImageTooLarge: the text has more of something than `most` allows.
    """
    limits = (
        (b",", most.values, "values"),
        (b"[", most.lists, "lists"),
        (b"{", most.objects, "objects"),
        (b":", most.names, "names"),
        (b'"', 4 * most.names, "texts"),
    )
    if len(text) <= min(limit for _, limit, _ in limits):
        return
    characters = np.frombuffer(text, np.uint8)
    counts = [0] * len(limits)
    for start in range(0, len(characters), _BLOCK):
        block = characters[start : start + _BLOCK]
        for index, (character, limit, what) in enumerate(limits):
            counts[index] += int(np.count_nonzero(block == character[0]))
            if counts[index] > limit:
                raise ImageTooLarge(f"the JSON has more than {limit} {what}{most.advice}")
