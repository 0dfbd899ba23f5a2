"""Mutations of bytes: what a broken or hostile client makes of a valid message."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

INTERESTING = (
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    32767,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63,
    2**64 - 1,
)
"""Numbers at which something overflows."""


def mutated(
    random: Random, data: bytes, tokens: Sequence[bytes], others: Sequence[bytes], most: int
) -> bytes:
    """The data after one to eight mutations.

    Args:
        random: decides.
        data: a valid message, as a rule.
        tokens: pieces of the format that are put in here and there.
        others: messages to splice with.
        most: length that it may have afterwards, bytes.
    """
    for _ in range(random.choice((1, 1, 1, 2, 3, 4, 8))):
        data = random.choice(_MUTATIONS)(random, data, tokens, others)[:most]
    return data


def _flip(random: Random, data: bytes, tokens: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _replace(random: Random, data: bytes, tokens: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + random.randbytes(random.randint(1, 8)) + data[at + random.randint(0, 8) :]


def _token(random: Random, data: bytes, tokens: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    at = random.randint(0, len(data))
    count = random.choice((1, 1, 1, 2, 20, 1000))
    return data[:at] + random.choice(tokens) * count + data[at + random.choice((0, 0, 1, 4)) :]


def _cut(random: Random, data: bytes, tokens: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    begin = random.randint(0, len(data))
    return data[:begin] + data[begin + random.randint(0, random.choice((4, 64, len(data) + 1))) :]


def _end(random: Random, data: bytes, tokens: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    return data[: random.randint(0, len(data))]


def _again(random: Random, data: bytes, tokens: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    begin = random.randint(0, len(data))
    piece = data[begin : begin + random.randint(1, 200)]
    return data[:begin] + piece * random.choice((2, 2, 3, 50)) + data[begin:]


def _splice(random: Random, data: bytes, tokens: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    other = random.choice(others)
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


def _number(random: Random, data: bytes, tokens: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    value = random.choice(INTERESTING)
    text = str(-value if random.random() < 0.3 else value).encode()
    packed = value.to_bytes(8, random.choice(("big", "little")))
    at = random.randint(0, len(data))
    return (
        data[:at] + random.choice((text, packed, packed[:4], packed[-4:])) + data[at + random.randint(0, 8) :]
    )


_MUTATIONS = (_flip, _replace, _token, _token, _cut, _end, _again, _splice, _number)
