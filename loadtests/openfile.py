"""Locust in an open loop: requests of the mix are sent on schedule, however long the answers take.

    locust -f loadtests/openfile.py --host http://127.0.0.1:3000 --headless --ceiling 60 --seconds 60

One user is the dispatcher. A request that is sent late, since this machine was busy, counts as late:
its latency begins when it was due. `python -m loadtests` measures the ceiling, runs this and judges it.
"""

from __future__ import annotations

import time
import traceback
from typing import Any

import gevent
from gevent.pool import Group
from locust import constant, events, task
from locust.exception import StopUser

from loadtests.arrivals import departures, gaps
from loadtests.asks import GRPC, ask, drawer
from loadtests.client import Client
from loadtests.grpc_client import VisionClient
from loadtests.shapes import SHAPES
from loadtests.verdict import read_slo


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    group = parser.add_argument_group("Lynceus, open loop")
    group.add_argument("--ceiling", type=float, default=10.0, help="requests per second at a level of 1")
    group.add_argument("--seed", type=int, default=1, help="of the arrivals and of the mix")


class Dispatcher(Client):
    """Sends what is due."""

    fixed_count = 1
    wait_time = constant(0)
    concurrency = 2048  # connections, of which as many are opened as requests are under way

    @task
    def dispatch(self) -> None:
        """The whole run; what goes wrong with it ends it, where locust would try again."""
        try:
            self._dispatch()
        except Exception:
            traceback.print_exc()
            self.environment.process_exit_code = 2
        gevent.spawn(self.environment.runner.quit)
        raise StopUser

    def _dispatch(self) -> None:
        options = self.environment.parsed_options
        slo = read_slo(options.slo)
        shape = SHAPES[options.shape or "steady"]
        levels = shape.timed(options.seconds or shape.seconds, slo.load)
        rates = [(seconds, level * options.ceiling) for seconds, level in levels]
        draw = drawer(slo.mix, options.seed)
        called = any(name.endswith(GRPC) for name in slo.mix)
        vision = VisionClient(self.environment, connections=8) if called else None
        for name in slo.mix:
            ask(name)  # reads the images before the clock runs
        sent = Group()
        began = time.time()
        print(f"began {began}", flush=True)
        for due in departures(rates, gaps(slo.arrivals, options.seed)):
            what = ask(draw())
            pause = began + due - time.time()
            gevent.sleep(max(0.0, pause))
            sent.spawn(vision.ask if what.grpc and vision else self.ask, what, began + due)
        gevent.sleep(max(0.0, began + sum(seconds for seconds, _ in rates) - time.time()))
        sent.join()  # each has its own timeout
