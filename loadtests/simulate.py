"""What a fleet of replicas does under a load: simulated, on a virtual clock.

    python -m loadtests.simulate --curve 1:9.3,2:17 --rate 150 --below 0.1 --price 0.08
    python -m loadtests.simulate --curve 1:9.3,2:17 --steps 300:150,120:450,300:150 --replicas 2 --scale 16

The batcher, its queue, its admission, its shedding and the choice of cores are the service's own code. What
is modelled: the time of a batch (`--curve`, batch size and milliseconds, as `python -m loadtests.capacity`
measures it in the layout that is planned for: with as many processes at once), of one image that has all
cores to itself (`--lone`), the CPU time of a request besides (`--overhead`, reading and answering it), a
replica's cores, which its workers share, arrivals, the balancer, the autoscaler and failures. What is not:
the network, decoding in threads beside a GPU, neighbours on the machine, the spread of a batch's time.
`python -m loadtests.predicted` compares it with a real server.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loadtests import command
from loadtests.arrivals import departures, gaps
from loadtests.plots import of_simulation
from loadtests.record import percentile
from loadtests.virtual import Machine, VirtualClock, run
from service.engine.batcher import Batcher
from service.engine.cores import Cores
from service.errors import Overloaded, ServiceError

LOOK = 15.0  # seconds between two decisions of the autoscaler, and between two points of the plot's replicas
TOLERANCE = 0.1  # of the target: a Horizontal Pod Autoscaler leaves the number as it is within
LOST = 0.001  # of the requests may be refused or fail
UP_SECONDS, DOWN_SECONDS = 30.0, 300.0  # stabilization, as docker/kubernetes/base/autoscaler.yaml
DOUBLE_SECONDS, REMOVE_SECONDS = 60.0, 120.0  # at most twice as many in one, at most one less in the other


@dataclass(frozen=True, slots=True)
class Curve:
    """A batch's time by its size, linear in between and beyond.

    Args:
        points: batch size and seconds on one core, ascending; 1 is the first.
        overhead: CPU seconds of a request besides.
        lone: seconds of one image that has all cores to itself; 0: it takes one core.
    """

    points: tuple[tuple[int, float], ...]
    overhead: float = 0.0
    lone: float = 0.0

    def seconds(self, size: int) -> float:
        """Of a batch."""
        sizes = [known for known, _ in self.points]
        at = min(max(1, bisect_left(sizes, size)), len(sizes) - 1)
        if len(sizes) == 1:
            return self.points[0][1] * size / sizes[0]
        (low, before), (high, after) = self.points[at - 1 : at + 1]
        return before + (after - before) * (size - low) / (high - low)

    def rate(self, max_batch: int) -> float:
        """Requests per second that one core does at most."""
        return max(size / (self.seconds(size) + size * self.overhead) for size in range(1, max_batch + 1))


@dataclass(frozen=True, slots=True)
class Scaling:
    """A Horizontal Pod Autoscaler on the images that wait per pod.

    Attributes:
        target: `lynceus_queue_depth` per pod.
        least, most: replicas.
    """

    target: float
    least: int = 2
    most: int = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated.

    Attributes:
        curve: of the model.
        steps: seconds and requests per second, one after the other.
        arrivals: `poisson` or `fixed`.
        recorded: when requests come, in place of those of `steps`.
        replicas: at the start.
        workers: of a replica, a core or GPU each.
        balancer: `round-robin`, or `least`: to the replica with the fewest requests under way.
        scaling: the autoscaler, if any.
        failures: seconds from the start at which one replica dies; another takes its place.
        start: seconds until a new replica is ready.
        timeout: of a request, seconds.
        max_batch, max_queue, max_wait, slots: the service's settings.
        seed: of the arrivals.
    """

    curve: Curve
    steps: tuple[tuple[float, float], ...]
    arrivals: str = "poisson"
    recorded: tuple[float, ...] = ()
    replicas: int = 1
    workers: int = 2
    balancer: str = "round-robin"
    scaling: Scaling | None = None
    failures: tuple[float, ...] = ()
    start: float = 20.0
    timeout: float = 30.0
    max_batch: int = 2
    max_queue: int = 128
    max_wait: float = 2.0
    slots: int = 1
    seed: int = 1

    @property
    def length(self) -> float:
        """Seconds."""
        return sum(seconds for seconds, _ in self.steps)

    def due(self) -> Iterable[float]:
        """When requests come."""
        return self.recorded or departures(self.steps, gaps(self.arrivals, self.seed))


@dataclass(slots=True)
class Outcome:
    """What became of the requests.

    Attributes:
        answered: due time and latency of each, seconds.
        refused: due times of those that were answered 429.
        failed: due times of those that got no answer: their replica died, there was none, or it was too late.
        replicas: (time, how many are ready) after each change.
        replica_seconds: that were paid for, starts included.
        length: seconds that were simulated.
    """

    answered: list[tuple[float, float]] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)
    replicas: list[tuple[float, int]] = field(default_factory=list)
    replica_seconds: float = 0.0
    length: float = 0.0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.answered) / self.length

    @property
    def lost(self) -> float:
        """Share of the requests that were refused or failed."""
        lost = len(self.refused) + len(self.failed)
        return lost / max(1, lost + len(self.answered))

    def percentile(self, share: float) -> float:
        """Latency that this share of the answers does not exceed; not a number without answers."""
        return (
            percentile((seconds for _, seconds in self.answered), 100 * share) if self.answered else math.nan
        )

    def cost(self, price: float) -> float:
        """Of a million answers, at a price of a replica's hour."""
        return self.replica_seconds / 3600 * price / max(1, len(self.answered)) * 1e6


class Worker:
    """One worker of a replica: the batcher, and before it the admission of `service.engine.runner`.

    Args:
        machine: that all workers of the replica compute on.
        cores: which count the replica's images.
    """

    def __init__(self, plan: Plan, machine: Machine, cores: Cores) -> None:
        self._plan, self._admitted = plan, 0
        self._machine, self._cores = machine, cores
        self._room = plan.max_queue + plan.slots * plan.max_batch
        self.batcher: Batcher[None, None] = Batcher(
            self._compute,
            max_batch=plan.max_batch,
            max_queue=plan.max_queue,
            slots=plan.slots,
            max_wait=plan.max_wait,
            clock=VirtualClock(),
        )

    async def _compute(self, items: Sequence[None]) -> Sequence[None]:
        curve = self._plan.curve
        if curve.lone and len(items) == 1 and self._cores.alone(1):
            await self._machine.compute(curve.lone, self._cores.total)
        else:
            await self._machine.compute(curve.seconds(len(items)))
        return items

    async def answer(self, deadline: float) -> None:
        """
        Raises:
            Overloaded, DeadlineExceeded, NotReady: as the service.
        """
        if self._admitted >= self._room:
            raise Overloaded("the queue is full", self.batcher.retry_after)
        self.batcher.check(self._admitted, deadline)
        self._admitted += 1
        self._cores.enter()
        try:
            await self._machine.compute(self._plan.curve.overhead)
            await self.batcher.submit(None, deadline=deadline)
        finally:
            self._admitted -= 1
            self._cores.leave()


class Replica:
    """One pod, with a core for each worker; each request goes to any of them, as its connection does."""

    def __init__(self, plan: Plan, began: float) -> None:
        self.began, self.underway = began, 0
        machine, cores = Machine(plan.workers), Cores(None, 1, plan.workers)
        self._workers = [Worker(plan, machine, cores) for _ in range(plan.workers)]
        self._drawn = random.Random(plan.seed)

    @property
    def depth(self) -> int:
        """Images that wait."""
        return sum(worker.batcher.queue_depth for worker in self._workers)

    async def answer(self, deadline: float) -> None:
        """Raises as `Worker.answer`."""
        self.underway += 1
        try:
            await self._drawn.choice(self._workers).answer(deadline)
        finally:
            self.underway -= 1

    async def leave(self) -> None:
        """Ends when all that it has is answered."""
        await asyncio.gather(*(worker.batcher.drain(math.inf) for worker in self._workers))

    def die(self) -> None:
        """What it has fails."""
        for worker in self._workers:
            worker.batcher.close()


class Fleet:
    """The replicas behind a balancer, with an autoscaler."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self.outcome = plan, Outcome()
        self._ready: list[Replica] = []
        self._coming = self._turn = 0
        self._depths: list[tuple[float, float]] = []
        self._wanted: list[tuple[float, int]] = []
        self._changed: list[tuple[float, int]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def simulate(self) -> Outcome:
        """All of the plan."""
        loop, outcome = asyncio.get_running_loop(), self.outcome
        for _ in range(self._plan.replicas):
            self._add(Replica(self._plan, 0.0))
        background = [loop.create_task(self._kill())]
        if self._plan.scaling is not None:
            background.append(loop.create_task(self._scale(self._plan.scaling)))
        requests: set[asyncio.Task[None]] = set()
        for due in self._plan.due():
            await asyncio.sleep(max(0.0, due - loop.time()))
            request = loop.create_task(self._request(due))
            requests.add(request)
            request.add_done_callback(requests.discard)
        outcome.length = max(self._plan.length, loop.time())
        for task in background:
            task.cancel()
        if requests:
            await asyncio.wait(requests)
        for replica in self._ready:
            outcome.replica_seconds += outcome.length - replica.began
        for task in self._tasks:
            task.cancel()
        return outcome

    async def _request(self, due: float) -> None:
        if not self._ready:
            self.outcome.failed.append(due)
            return
        if self._plan.balancer == "least":
            replica = min(self._ready, key=lambda one: one.underway)
        else:
            self._turn += 1
            replica = self._ready[self._turn % len(self._ready)]
        loop = asyncio.get_running_loop()
        try:
            await replica.answer(due + self._plan.timeout)
            self.outcome.answered.append((due, loop.time() - due))
        except Overloaded:
            self.outcome.refused.append(due)
        except ServiceError:
            self.outcome.failed.append(due)

    def _add(self, replica: Replica) -> None:
        self._ready.append(replica)
        self.outcome.replicas.append((asyncio.get_running_loop().time(), len(self._ready)))

    def _remove(self, replica: Replica) -> None:
        now = asyncio.get_running_loop().time()
        self._ready.remove(replica)
        self.outcome.replica_seconds += now - replica.began
        self.outcome.replicas.append((now, len(self._ready)))

    def _begin(self) -> None:
        """A new replica, which is not ready at once."""

        async def come() -> None:
            replica = Replica(self._plan, asyncio.get_running_loop().time())
            await asyncio.sleep(self._plan.start)
            self._coming -= 1
            self._add(replica)

        self._coming += 1
        self._keep(come())

    def _keep(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _kill(self) -> None:
        for at in sorted(self._plan.failures):
            await asyncio.sleep(at - asyncio.get_running_loop().time())
            if self._ready:
                replica = self._ready[0]
                self._remove(replica)
                replica.die()
                self._begin()

    async def _scale(self, rule: Scaling) -> None:
        """https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details"""
        while True:
            await asyncio.sleep(LOOK)
            now = asyncio.get_running_loop().time()
            pods = len(self._ready) + self._coming
            depth = sum(replica.depth for replica in self._ready) / max(1, len(self._ready))
            wanted = pods
            if abs(depth / rule.target - 1) > TOLERANCE:
                wanted = math.ceil(len(self._ready) * depth / rule.target)
            self._wanted.append((now, min(max(wanted, rule.least), rule.most)))
            lowest = min(count for at, count in self._wanted if at > now - UP_SECONDS)
            highest = max(count for at, count in self._wanted if at > now - DOWN_SECONDS)
            if lowest > pods:
                before = min([count for at, count in self._changed if at > now - DOUBLE_SECONDS] or [pods])
                for _ in range(min(lowest, 2 * before) - pods):
                    self._begin()
            elif highest < pods and now > DOWN_SECONDS:
                recent = [count for at, count in self._changed if at > now - REMOVE_SECONDS]
                if not recent and len(self._ready) > rule.least:
                    replica = self._ready[-1]
                    self._remove(replica)
                    self._keep(replica.leave())
            if (after := len(self._ready) + self._coming) != pods:
                self._changed.append((now, pods if after > pods else after))


def simulate(plan: Plan) -> Outcome:
    """What becomes of a plan."""
    return run(Fleet(plan).simulate())


def needed(plan: Plan, below: float) -> int:
    """The fewest replicas whose p99 is below so many seconds, and which lose no more than `LOST`.

    Raises:
        ValueError: not even an idle replica answers so fast.
    """
    if plan.curve.seconds(1) >= below:
        raise ValueError(f"one image takes {1000 * plan.curve.seconds(1):.1f} ms, with no other before it")
    most = max(rate for _, rate in plan.steps)
    fewest = max(1, math.ceil(most / (plan.workers * plan.curve.rate(plan.max_batch))))
    for replicas in itertools.count(fewest):
        outcome = simulate(replace(plan, replicas=replicas))
        if outcome.percentile(0.99) < below and outcome.lost <= LOST:
            return replicas
    raise AssertionError


HEADER = (
    "| replicas, target | requests/s | answers/s | refused or failed | p50, ms | p99, ms | most, at the end"
    " | replica hours | price of a million |\n| --- |" + " --- |" * 8
)


def row(plan: Plan, outcome: Outcome, price: float) -> str:
    """A line of the table."""
    rates = "-".join(f"{rate:g}" for _, rate in plan.steps)
    p50, p99 = (1000 * outcome.percentile(share) for share in (0.5, 0.99))
    counts = [count for _, count in outcome.replicas]
    target = "" if plan.scaling is None else f", {plan.scaling.target:g}"
    return (
        f"| {plan.replicas}{target} | {rates} | {outcome.rate:.1f} | {100 * outcome.lost:.2f}% | {p50:.1f}"
        f" | {p99:.1f} | {max(counts)}, {counts[-1]} | {outcome.replica_seconds / 3600:.2f}"
        f" | {outcome.cost(price):.2f} |"
    )


def pairs(text: str, scale: float = 1.0) -> Iterator[tuple[float, float]]:
    """`a:b,c:d`, the second of each divided by `scale`."""
    for part in text.split(","):
        first, second = part.split(":")
        yield float(first), float(second) / scale


def main() -> None:
    """Prints the table, and writes the plot of the last line."""
    parser = command.parser(__doc__)
    parser.add_argument("--curve", required=True, help="SIZE:MILLISECONDS,... of a batch, 1 the first")
    parser.add_argument("--overhead", type=float, default=1.0, help="milliseconds of a request besides")
    parser.add_argument("--lone", type=float, default=0.0, help="milliseconds of an image on all cores")
    parser.add_argument("--rate", help="requests per second, separated by commas: a line for each")
    parser.add_argument("--seconds", type=float, default=120.0, help="of each --rate")
    parser.add_argument("--steps", help="SECONDS:RATE,... in place of --rate")
    parser.add_argument("--recorded", type=Path, help="a file with the seconds of a request on each line")
    parser.add_argument("--fixed", action="store_true", help="evenly spaced arrivals, not Poisson's")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--below", type=float, help="seconds: find the fewest replicas with p99 below it")
    parser.add_argument("--workers", type=int, default=2, help="of a replica")
    parser.add_argument("--balancer", choices=("round-robin", "least"), default="round-robin")
    parser.add_argument(
        "--scale", help="the autoscaler's targets, images waiting per replica: a line for each"
    )
    parser.add_argument("--most", type=int, default=8, help="replicas of the autoscaler")
    parser.add_argument("--start", type=float, default=20.0, help="seconds until a new replica is ready")
    parser.add_argument("--failures", default="", help="seconds at which a replica dies, separated by commas")
    parser.add_argument("--max-batch", type=int, default=2)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--price", type=float, default=0.0, help="of a replica's hour")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="an SVG to write")
    options = parser.parse_args()
    points = tuple((int(size), seconds) for size, seconds in pairs(options.curve, 1000))
    curve = Curve(points, options.overhead / 1000, options.lone / 1000)
    recorded = tuple(map(float, options.recorded.read_text().split())) if options.recorded else ()
    loads: list[tuple[tuple[float, float], ...]]
    if recorded:
        loads = [((recorded[-1], len(recorded) / recorded[-1]),)]
    elif options.steps:
        loads = [tuple(pairs(options.steps))]
    elif options.rate:
        loads = [((options.seconds, float(rate)),) for rate in options.rate.split(",")]
    else:
        parser.error("give --rate, --steps or --recorded")
    targets = [float(target) for target in options.scale.split(",")] if options.scale else [0.0]
    print(HEADER)
    for steps, target in itertools.product(loads, targets):
        plan = Plan(
            curve=curve,
            steps=steps,
            arrivals="fixed" if options.fixed else "poisson",
            recorded=recorded,
            replicas=options.replicas,
            workers=options.workers,
            balancer=options.balancer,
            scaling=Scaling(target, min(2, options.replicas), options.most) if target else None,
            failures=tuple(float(at) for at in options.failures.split(",") if at),
            start=options.start,
            max_batch=options.max_batch,
            slots=options.slots,
            seed=options.seed,
        )
        if options.below:
            plan = replace(plan, replicas=needed(plan, options.below))
        outcome = simulate(plan)
        print(row(plan, outcome, options.price), flush=True)
    if options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        options.plot.write_text(of_simulation(outcome, max(1.0, outcome.length / 120)), encoding="utf-8")


if __name__ == "__main__":
    main()
