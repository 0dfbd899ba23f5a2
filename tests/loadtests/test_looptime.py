"""The clock of the event loop's thread: what the kernel counts for a process's first thread."""

from __future__ import annotations

import os
import threading
import time

import pytest

from loadtests.looptime import loop_seconds


def test_the_first_thread_alone_is_counted() -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("the tests run in another thread")
    before, began = loop_seconds(os.getpid()), time.thread_time()
    while time.thread_time() - began < 0.05:
        pass
    spent = time.thread_time() - began
    assert loop_seconds(os.getpid()) - before == pytest.approx(spent, abs=0.04)

    def spin() -> None:
        began = time.thread_time()
        while time.thread_time() - began < 0.2:
            pass

    other = threading.Thread(target=spin)
    before, began = loop_seconds(os.getpid()), time.thread_time()
    other.start()
    other.join()
    assert loop_seconds(os.getpid()) - before == pytest.approx(time.thread_time() - began, abs=0.04)
