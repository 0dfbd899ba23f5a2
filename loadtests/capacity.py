"""What a batch size costs and gives, for each model, and what to set for it.

    python -m loadtests.capacity --plot build/capacity.svg

In process, on all cores: requests per second and a batch's time for each batch size. Recommended are
- `max_batch`: the smallest that gives 95% of the best rate;
- `linger`: nothing where batches gain less than a quarter, since waiting adds that much latency at low load;
  else a quarter of what one image takes, but 10 ms at most;
- the autoscaler's target, images waiting per pod (`lynceus_queue_depth`): as many as the recommended batches
  work off within `--wait` milliseconds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2

from loadtests import command, plots
from loadtests.asks import images_of
from loadtests.limit import BATCHES, Job, Limit, layouts
from loadtests.reference import accelerated
from loadtests.tasks import EMBEDDER, LIMITED, TASKS

NEAR = 0.95  # of the best rate is as good as the best
GAIN = 1.25  # of batches over single images, from which waiting for more pays
LONGEST = 0.010  # seconds
CHIP = 150  # pixels, a side of an aligned face
TASK_OF: dict[str, str] = {}
for _name, _work in LIMITED.items():
    TASK_OF.setdefault(_work.model, _name)


@dataclass(frozen=True, slots=True)
class Advice:
    """What to set for a model: `LYNCEUS_MAX_BATCH`, `LYNCEUS_LINGER_MS`, the autoscaler's target."""

    max_batch: int
    linger_ms: float
    target: int


Curve = Sequence[tuple[int, float, float]]
"""Batch size, images per second, seconds of a batch."""


def curve(rates: Mapping[int, float], processes: int) -> list[tuple[int, float, float]]:
    """From the rates of so many processes that work at once."""
    return [(size, rate, processes * size / rate) for size, rate in sorted(rates.items())]


def advise(points: Curve, wait: float) -> Advice:
    """What a sweep recommends.

    Args:
        points: with batch size 1 among them.
        wait: seconds that an image may wait in the queue before another pod is worth it.
    """
    best = max(rate for _, rate, _ in points)
    size, rate, _ = next(point for point in points if point[1] >= NEAR * best)
    alone = next(point for point in points if point[0] == 1)
    pays = size > 1 and rate >= GAIN * alone[1]
    linger = min(LONGEST, alone[2] / 4) if pays else 0.0
    return Advice(size, round(1000 * linger, 1), max(1, int(rate * wait)))


@contextmanager
def job_of(model: str) -> Iterator[Job]:
    """A model's work with its task's images; the embedder's are as large as the faces that it is given."""
    if model != EMBEDDER:
        # alone, even where its task has a second model behind it
        work = replace(TASKS[TASK_OF[model]], model=model, embedder=None)
        yield work, images_of(work)
        return
    work = replace(TASKS["faces"], model=model)
    with tempfile.TemporaryDirectory(prefix="lynceus-chips-") as folder:
        chips = []
        for number, image in enumerate(images_of(work)[:64]):
            chips.append(Path(folder) / f"{number:03d}.jpg")
            pixels = cv2.imread(str(image), cv2.IMREAD_COLOR)
            cv2.imwrite(str(chips[-1]), cv2.resize(pixels, (CHIP, CHIP)))
        yield work, chips


def sweep(model: str, batches: Sequence[int], seconds: float) -> list[tuple[int, float, float]]:
    """The curve of a model in the layout that the service has by default."""
    layout = layouts()[0 if accelerated() else -1]
    with job_of(model) as job, Limit([job], layout, batches) as limit:
        sizes = [size for size in batches if size <= job[0].most]
        return curve({size: limit.measure(size, seconds) for size in sizes}, layout.processes)


def table(curves: Mapping[str, Curve], wait: float) -> str:
    """Markdown: what was measured, and what it recommends."""
    sizes = sorted({size for points in curves.values() for size, *_ in points})
    lines = [command.head("model", *(f"{size}: /s, ms" for size in sizes), "max_batch", "linger", "target")]
    for model, points in curves.items():
        advice = advise(points, wait)
        known = {size: f"{rate:.1f}, {1000 * seconds:.1f}" for size, rate, seconds in points}
        cells = [known.get(size, "") for size in sizes]
        cells += [str(advice.max_batch), f"{advice.linger_ms:g} ms", str(advice.target)]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table and writes the plot."""
    models = [*TASK_OF, EMBEDDER]
    parser = command.parser(__doc__)
    parser.add_argument("--models", default=",".join(models), help="separated by commas")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)), help="1 among them")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    parser.add_argument("--wait", type=float, default=100.0, help="milliseconds that an image may wait")
    parser.add_argument("--plot", type=Path, help="an SVG to write")
    options = parser.parse_args()
    chosen, batches = options.models.split(","), [int(size) for size in options.batches.split(",")]
    if not set(chosen) <= set(models) or 1 not in batches:
        parser.error(f"--models: of {', '.join(models)}; --batches: 1 among them")
    curves = {model: sweep(model, batches, options.seconds) for model in chosen}
    print(table(curves, options.wait / 1000))
    if options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        options.plot.write_text(plots.of_sweep(curves), encoding="utf-8")


if __name__ == "__main__":
    main()
