"""Averages the weights of several points of one training, which often generalise better than each of them.

python -m models.training.yolo.average best.safetensors last.safetensors --size 512 --out averaged.safetensors

Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (UAI 2018,
https://arxiv.org/abs/1803.05407). The points must have a common past: those of separate trainings do not mix.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from models.detection.yolo import Yolo, load, save


def average(networks: Sequence[Yolo], size: int | None = None) -> Yolo:
    """The mean of networks of one shape, batch norms' statistics included.

    Args:
        networks: at least one, of the same labels and anchors.
        size: side of the canvas to serve it on; None: the first's.

    Raises:
        ValueError: they differ in more than their weights.
    """
    first = networks[0].config
    if any(replace(network.config, size=first.size) != first for network in networks[1:]):
        raise ValueError("only networks of one shape, with the same labels and anchors, can be averaged")
    result = Yolo(replace(first, size=size or first.size))
    states = [network.state_dict() for network in networks]
    mean = {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        for name, value in states[0].items()
    }
    result.load_state_dict(mean)
    return result.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m models.training.yolo.average", description=main.__doc__)
    parser.add_argument("weights", type=Path, nargs="+", help="of `models.training.yolo`")
    parser.add_argument("--size", type=int, help="side of the canvas that it is to be served on")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    save(average([load(path) for path in options.weights], options.size), options.out)


if __name__ == "__main__":
    main()
