"""What is measured is sent to the processes of the in-process limit."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from loadtests.tasks import TASKS, Work


@pytest.mark.parametrize("work", TASKS.values(), ids=TASKS)
def test_work_reaches_another_process(work: Work) -> None:
    for one in (work, replace(work, model="another", most=3)):
        assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 (of this process)
