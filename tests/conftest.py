"""In which order the tests run, and which process of `pytest -n` takes which."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.scheduler import ByServer  # only here: a GPU's machine may have no xdist

    config.option.loadscopereorder = False  # in the order below
    return ByServer(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The end-to-end tests come first: they wait much, and then have others beside them."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/e2e/"))
