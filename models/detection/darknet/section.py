"""Sections of a darknet `.cfg`: `[name]` and `key=value` lines, read with type, default and bounds."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from models.errors import WeightsError

ACTIVATIONS: Final = ("linear", "leaky", "relu", "relu6", "mish", "swish", "logistic")
MAX_LAYERS: Final = 1000

# Keys that change what a layer computes, and the one value of each that is supported (None: none).
_REFUSED: Final[dict[str, dict[str, str | None]]] = {
    "net": {"channels": "3"},
    "convolutional": {
        **dict.fromkeys(("binary", "xnor", "bin_output", "cbn", "flipped", "antialiasing", "coordconv"), "0"),
        **dict.fromkeys(("sway", "rotate", "stretch", "stretch_sway", "reverse"), "0"),
        **dict.fromkeys(("share_index", "stride_x", "stride_y")),
    },
    "maxpool": {
        **dict.fromkeys(("maxpool_depth", "antialiasing"), "0"),
        **dict.fromkeys(("stride_x", "stride_y")),
    },
    "shortcut": {"weights_type": "none", "alpha": "1", "beta": "1"},
    "scale_channels": {"scale_wh": "0"},
    "reorg": {"reverse": "0"},
    "yolo": {"embedding_layer": None},
    "region": {"coords": "4", "softmax": "1", "classfix": "0", "tree": None},
}
_ALIASES: Final = {"network": "net", "conv": "convolutional", "max": "maxpool", "avg": "avgpool"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands, for messages: `yolov4.cfg:147: layer 12 [route]`."""

    file: str
    line: int
    name: str

    def error(self, what: str) -> WeightsError:
        """An error that has the place before `what`."""
        return WeightsError(f"{self.file}:{self.line}: {self.name}: {what}")


class Section:
    """One section's options; every reader raises WeightsError with the place of what is wrong.

    Args:
        place: the file, the line of `[name]`, and a name for messages.
        kind: what stands between the brackets.
    """

    def __init__(self, place: Place, kind: str) -> None:
        self.place = place
        self.kind = _ALIASES.get(kind, kind)
        self._options: dict[str, tuple[str, int]] = {}

    def add(self, key: str, value: str, line: int) -> None:
        """Of a key that stands twice, darknet takes the first."""
        self._options.setdefault(key, (value, line))

    def refuse_unsupported(self) -> None:
        """Raises for an option that would change what the network computes and is not supported."""
        for key, only in _REFUSED.get(self.kind, {}).items():
            value = self._options[key][0] if key in self._options else only
            if value != only and not _same_number(value, only):
                raise self.error(
                    key, f"{key}={value} is not supported" + (f", only {key}={only}" if only else "")
                )

    def error(self, key: str, what: str) -> WeightsError:
        """An error at the line of `key`, or of the section where the key is absent."""
        line = self._options[key][1] if key in self._options else self.place.line
        return Place(self.place.file, line, self.place.name).error(what)

    def text(self, key: str, default: str | None) -> str:
        """The value as it stands; a default of None makes the key required."""
        if key in self._options:
            return self._options[key][0]
        if default is None:
            raise self.error(key, f"{key} is missing")
        return default

    def integer(self, key: str, default: int | None, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        return self._whole(key, self.text(key, None if default is None else str(default)), low, high)

    def flag(self, key: str) -> bool:
        """True for any whole number but 0; False where the key is absent."""
        return self.integer(key, 0, -100, 100) != 0

    def integers(self, key: str, default: str | None, low: int, high: int) -> tuple[int, ...]:
        """Whole numbers, separated by commas."""
        return tuple(self._whole(key, part, low, high) for part in self._parts(key, default))

    def real(self, key: str, default: float, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        return self._real(key, self.text(key, str(default)), low, high)

    def activation(self, default: str) -> str:
        """One of ACTIVATIONS."""
        name = self.text("activation", default)
        if name not in ACTIVATIONS:
            raise self.error("activation", f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
        return name

    def layers(self, key: str, index: int) -> tuple[int, ...]:
        """Absolute indices of layers before layer `index`; negative ones in the file count back from it."""
        named = self.integers(key, None, -MAX_LAYERS, MAX_LAYERS)
        found = tuple(value + index if value < 0 else value for value in named)
        if not all(0 <= value < index for value in found):
            raise self.error(
                key, f"{key}={self.text(key, None)} names a layer that is not before layer {index}"
            )
        return found

    def anchors(self) -> tuple[tuple[float, float], ...]:
        """`anchors`: width, height pairs, as many as `num` says."""
        values = [self._real("anchors", part, 1e-3, 1e5) for part in self._parts("anchors", None)]
        num = self.integer("num", None, 1, 100)
        if len(values) != 2 * num:
            raise self.error("anchors", f"{len(values)} numbers for num={num} anchors, which need {2 * num}")
        return tuple(zip(values[::2], values[1::2], strict=True))

    def _parts(self, key: str, default: str | None) -> list[str]:
        return [part.strip() for part in self.text(key, default).rstrip(", \t").split(",")]

    def _whole(self, key: str, text: str, low: int, high: int) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
            raise self.error(key, f"{key}={text!r} is not a whole number")
        if not low <= int(text) <= high:
            raise self.error(key, f"{key}={text} is not from {low} to {high}")
        return int(text)

    def _real(self, key: str, text: str, low: float, high: float) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise self.error(key, f"{key}={text!r} is not a number from {low:g} to {high:g}")
        return value


def _same_number(a: str | None, b: str | None) -> bool:
    try:
        return a is not None and b is not None and float(a) == float(b)
    except ValueError:
        return False


def read_sections(text: str, file: str) -> list[Section]:
    """Splits a file; the first section is `[net]`, the others are layers, numbered from 0 in their names.

    Blank lines and lines of `#` and `;` are comments, and so is what follows a `#`.

    Raises:
        WeightsError: a line is neither a section nor `key=value`, the first section is not `[net]`, or there
            are more than MAX_LAYERS.
    """
    sections: list[Section] = []
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.split("#", 1)[0].strip()
        if not line or line[0] in ";\0":
            continue
        here = Place(file, number, sections[-1].place.name if sections else "before [net]")
        if line.startswith("["):
            if not line.endswith("]"):
                raise here.error(f"{line!r} is no section: its bracket does not close")
            name = line if not sections else f"layer {len(sections) - 1} {line}"
            sections.append(Section(Place(file, number, name), line[1:-1].strip()))
            if len(sections) == 1 and sections[0].kind != "net":
                raise here.error(f"a darknet cfg starts with [net], not with {line}")
            if len(sections) - 1 > MAX_LAYERS:
                raise here.error(f"more than {MAX_LAYERS} layers are not supported")
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not key or not value:
            raise here.error(f"{line!r} is neither a [section] nor key=value")
        if not sections:
            raise here.error(f"{line!r} stands before the first section")
        sections[-1].add(key, value, number)
    if not sections:
        raise WeightsError(f"{file}:1: no section; a darknet cfg starts with [net]")
    return sections
