"""Plots as SVG that stands within a page."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from loadtests.record import ERROR, OK, SHED, Record, Request, percentile
from loadtests.scrape import by_model, mean_batches

if TYPE_CHECKING:
    from loadtests.simulate import Outcome

mpl.rcParams["svg.fonttype"] = "none"  # text stays text
mpl.rcParams["svg.hashsalt"] = "lynceus"  # the same figures give the same file


def svg(figure: Any) -> str:
    """A figure as an `<svg>` element."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    return "<svg" + text.getvalue().partition("<svg")[2]


def buckets(
    requests: Iterable[Request], began: float, at: Callable[[Request], float], width: float
) -> dict[int, list[Request]]:
    """Requests by the number of the interval that a moment of theirs falls into."""
    found: dict[int, list[Request]] = defaultdict(list)
    for request in requests:
        found[int((at(request) - began) // width)].append(request)
    return found


def of_run(record: Record) -> str:
    """Throughput, latencies, batch sizes and queue depth of a run over time, one below the other."""
    length = sum(seconds for seconds, _ in record.steps)
    width = max(1.0, length / 120)
    figure = Figure(figsize=(10, 13))
    throughput, latency, batches, queue = figure.subplots(4, 1, sharex=True)
    _throughput(throughput, record, width)
    _latency(latency, record, width)
    for axes, curves, label in (
        (batches, mean_batches(record.samples), "images per batch"),
        (queue, by_model(record.samples, "lynceus_queue_depth"), "images waiting"),
    ):
        for model, points in sorted(curves.items()):
            axes.plot(
                [time - record.began for time, _ in points], [value for _, value in points], label=model
            )
        _finish(axes, label)
    queue.set_xlabel("seconds")
    return svg(figure)


def of_sweep(curves: Mapping[str, Sequence[tuple[int, float, float]]]) -> str:
    """For each model, its images per second against a batch's milliseconds; batch sizes beside the points."""
    figure = Figure(figsize=(9, 6))
    axes = figure.subplots()
    for model, points in curves.items():
        rates, milliseconds = [rate for _, rate, _ in points], [1000 * seconds for _, _, seconds in points]
        axes.plot(milliseconds, rates, marker="o", label=model)
        for (size, *_), x, y in zip(points, milliseconds, rates, strict=True):
            axes.annotate(str(size), (x, y), textcoords="offset points", xytext=(4, 4), fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("milliseconds of a batch")
    _finish(axes, "images per second", bottom=None)
    return svg(figure)


def _throughput(axes: Any, record: Record, width: float) -> None:
    began = 0.0
    for seconds, level in record.steps:
        axes.hlines(level * record.ceiling, began, began + seconds, colors="black", linestyles="dotted")
        began += seconds
    answered = buckets(record.requests, record.began, lambda each: each.due + each.seconds, width)
    for outcome, colour in ((OK, "tab:green"), (SHED, "tab:orange"), (ERROR, "tab:red")):
        counts = {
            number: sum(request.outcome == outcome for request in requests)
            for number, requests in answered.items()
        }
        if any(counts.values()):
            numbers = range(min(counts), max(counts) + 1)
            rates = [counts.get(number, 0) / width for number in numbers]
            axes.plot([number * width for number in numbers], rates, color=colour, label=outcome)
    _finish(axes, "answers per second")


def _latency(axes: Any, record: Record, width: float) -> None:
    right = [request for request in record.requests if request.outcome == OK]
    left = sorted(buckets(right, record.began, lambda each: each.due, width).items())
    for percent in (50, 90, 99):
        values = [1000 * percentile((each.seconds for each in requests), percent) for _, requests in left]
        axes.plot([number * width for number, _ in left], values, label=f"p{percent}")
    axes.set_yscale("log")
    _finish(axes, "latency, ms", bottom=None)


def _finish(axes: Any, label: str, bottom: float | None = 0.0) -> None:
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if bottom is not None:
        axes.set_ylim(bottom=bottom)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)


def of_simulation(outcome: Outcome, width: float) -> str:
    """A simulated fleet over time: answers and losses per second, latencies, replicas; an SVG."""
    figure = Figure(figsize=(9, 8))
    flow, latency, replicas = figure.subplots(3, 1, sharex=True)
    times = [width * number for number in range(math.ceil(outcome.length / width))]

    def per_second(due: Iterable[float]) -> list[float]:
        counts = [0] * len(times)
        for at in due:
            counts[min(len(counts) - 1, int(at / width))] += 1
        return [count / width for count in counts]

    flow.plot(times, per_second(at for at, _ in outcome.answered), label="answered")
    flow.plot(times, per_second([*outcome.refused, *outcome.failed]), label="refused or failed")
    flow.set_ylabel("requests per second")
    flow.legend()
    slices: list[list[float]] = [[] for _ in times]
    for at, seconds in outcome.answered:
        slices[min(len(times) - 1, int(at / width))].append(seconds)
    for percent in (50, 99):
        shown = [1000 * percentile(part, percent) if part else math.nan for part in slices]
        latency.plot(times, shown, label=f"p{percent}")
    latency.set_ylabel("milliseconds")
    latency.legend()
    changes = [*outcome.replicas, (outcome.length, outcome.replicas[-1][1])]
    replicas.step([at for at, _ in changes], [count for _, count in changes], where="post")
    replicas.set_ylabel("replicas")
    replicas.set_xlabel("seconds")
    return svg(figure)
