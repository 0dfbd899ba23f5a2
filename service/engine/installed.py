"""Whether torch is installed, without importing it. The image of a CPU has none."""

from __future__ import annotations

import importlib.util
from functools import cache

from service.errors import NotSupported


@cache
def has_torch() -> bool:
    """Whether torch is installed."""
    return importlib.util.find_spec("torch") is not None


def require_torch(what: str) -> None:
    """
    Args:
        what: takes it.

    Raises:
        NotSupported: it is not installed.
    """
    if not has_torch():
        raise NotSupported(f"{what} takes torch, which is not installed here: see docs/containers.md")
