"""Accept and Accept-Encoding (RFC 9110, section 12.5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

CHOICES: Final = 32
"""Members of a header, and parameters of a member, that are looked at."""


def weighted(header: str) -> Iterator[tuple[str, float]]:
    """The members of a header, in lower case, with their q values; 0 for one that is no number."""
    for member in header.lower().split(",", CHOICES)[:CHOICES]:
        name, *parameters = (piece.strip() for piece in member.split(";", CHOICES)[:CHOICES])
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        yield name, weight
