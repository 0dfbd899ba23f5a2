"""Draws a training's curve: losses of every epoch, and what was measured on the held-out images.

python -m models.training.yolo.curve run/history.json yolo-person.svg
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path


def plot(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draws `history.json` of `models.training.yolo` to a file (.svg, .png)."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # not needed to serve

    epochs = [row["epoch"] for row in history]
    measured = [row for row in history if "ap50" in row]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, precision = figure.subplots(1, 2)
    for name in ("box", "objectness", "mimic"):
        if any(row.get(name) for row in history):  # no teacher, no mimic
            losses.plot(epochs, [row[name] for row in history], ".-", label=name)
    losses.set(xlabel="epoch", title="training loss", ylim=(0, None))
    for name, label in (("ap50", "AP50"), ("ap", "AP50:95")):
        precision.plot([row["epoch"] for row in measured], [row[name] for row in measured], ".-", label=label)
    precision.set(xlabel="epoch", title="average precision, held-out images", ylim=(0, None))
    for axes in (losses, precision):
        axes.grid(alpha=0.3)
        axes.legend()
    with rc_context({"svg.hashsalt": "curve"}):  # the same curve gives the same file
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m models.training.yolo.curve", description=main.__doc__)
    parser.add_argument("history", type=Path, help="history.json of a training")
    parser.add_argument("image", type=Path, help="where to draw to")
    options = parser.parse_args(arguments)
    plot(json.loads(options.history.read_text()), options.image)


if __name__ == "__main__":
    main()
