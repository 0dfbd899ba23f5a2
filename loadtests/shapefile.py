"""Locust's shape for the users of `locustfile.py`: as many as a level of `shapes.py` stands for.

    locust -f loadtests/locustfile.py,loadtests/shapefile.py --host ... --headless -u 32 --shape ramp

`-u` is how many stand for the ceiling: 16 for each core keep the service busy.
"""

from __future__ import annotations

from typing import Any

from locust import LoadTestShape

from loadtests.shapes import SHAPES, level_at
from loadtests.verdict import read_slo


class Profile(LoadTestShape):
    """Users by the clock."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how many may start in a second; None at the end."""
        options: Any = self.runner.environment.parsed_options if self.runner else None
        shape = SHAPES[options.shape or "steady"]
        load = read_slo(options.slo).load
        level = level_at(shape.timed(options.seconds or shape.seconds, load), self.get_run_time())
        if level is None:
            return None
        users = max(1, round(level * (options.num_users or 1)))
        return users, float(users)
