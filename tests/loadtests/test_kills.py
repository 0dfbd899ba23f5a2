"""What a run of kills takes for left behind."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from loadtests.faults.kills import SHM, is_mapped


def test_what_a_process_has_mapped_is_not_left_behind(tmp_path: Path) -> None:
    before = set(SHM.iterdir())
    queue = multiprocessing.get_context("spawn").Queue()
    assert any(is_mapped(str(path)) for path in set(SHM.iterdir()) - before)
    queue.close()
    left = tmp_path / "left"
    left.write_bytes(b"x")
    assert not is_mapped(str(left))
    assert not is_mapped(str(tmp_path / "gone"))
