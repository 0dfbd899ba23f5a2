"""Trains the YOLO on a folder in YOLO's format; made for a CPU and a fixed amount of time.

    python -m models.training.yolo DATA --labels person --trunk efficientnet-lite0-57934424.pth \\
        --out run --minutes 90

Writes to the output folder: `last.pt` (to go on with `--resume`), `best.safetensors` (the averaged weights
with the best AP50 on the held-out images), `epoch-N.safetensors` (those of each measurement, which
`average.py` takes the mean of), `last.safetensors` (those of the end) and `history.json` (the curve).

glibc gives a step's memory back after each step and allocates it again at the next; so set it took 0.92
seconds where it had taken 1.3 (448 pixels, 16 images, 2 cores):

    export GLIBC_TUNABLES=glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from models.classification.efficientnet import load as load_classifier
from models.detection.yolo import Yolo, load
from models.detection.yolo_config import STRIDES, YoloConfig
from models.training.yolo import data
from models.training.yolo.anchors import kmeans, shapes_of
from models.training.yolo.augment import Augment
from models.training.yolo.distil import load_teacher
from models.training.yolo.folder import Folder, Sample
from models.training.yolo.loss import YoloLoss
from models.training.yolo.trainer import Recipe, Trainer

AUGMENT = ("mosaic", "mixup", "stretch", "grey")
"""The options of `Augment` that the command has."""


def configure(labels: Sequence[str], train: Sequence[Sample], size: int, seed: int) -> YoloConfig:
    """A network's configuration for a data set: three anchors a scale, from k-means on the training boxes."""
    shapes = kmeans(shapes_of(Folder(tuple(train)), size), 3 * len(STRIDES), seed=seed)
    rows = [
        tuple((round(w, 1), round(h, 1)) for w, h in row)
        for row in shapes.reshape(len(STRIDES), 3, 2).tolist()
    ]
    return YoloConfig(tuple(labels), tuple(rows), size=size)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m models.training.yolo", description=main.__doc__)
    parser.add_argument("data", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--labels", nargs="+", required=True, help="class names, by index")
    parser.add_argument(
        "--trunk", type=Path, help="EfficientNet-Lite0's published ImageNet checkpoint (.pth)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--resume", type=Path, help="a last.pt to go on from")
    parser.add_argument(
        "--init", type=Path, help="weights and anchors to start from, of an earlier run with these labels"
    )
    for name, kind in Recipe.__annotations__.items():
        if name not in ("augment", "loss"):
            number = float if "float" in str(kind) else int
            parser.add_argument(f"--{name.replace('_', '-')}", type=number, help=f"see Recipe.{name}")
    for name in AUGMENT:
        parser.add_argument(f"--{name}", type=float, help=f"see Augment.{name}")
    parser.add_argument("--objectness", type=float, help="see YoloLoss.objectness")
    parser.add_argument("--teacher", help="a detector of the catalogue that teaches (see distil.py)")
    parser.add_argument("--catalogue", type=Path, help="an operator's own catalogue, with --teacher")
    options = vars(parser.parse_args(arguments))
    given = {name: value for name, value in options.items() if value is not None}
    recipe = Recipe(
        **{name: value for name, value in given.items() if name in Recipe.__annotations__},
        augment=Augment(**{name: given[name] for name in AUGMENT if name in given}),
        loss=YoloLoss(**{name: given[name] for name in ("objectness",) if name in given}),
    )

    torch.manual_seed(recipe.seed)
    labels = options["labels"]
    train, held = data.split(Folder.read(options["data"], classes=len(labels)))
    earlier = None if options["init"] is None else load(options["init"])
    if earlier is None:
        network = Yolo(configure(labels, train, recipe.size, recipe.seed))
    else:  # its anchors too: the heads' outputs are relative to them
        network = Yolo(replace(earlier.config, size=recipe.size))
    if options["trunk"] is not None:
        network.backbone.load_state_dict(load_classifier(options["trunk"]).backbone.state_dict())
    if earlier is not None:
        network.load_state_dict(earlier.state_dict())
    print(
        f"{len(train)} images to train on, {len(held)} held out, anchors {network.config.anchors}",
        flush=True,
    )
    teacher = None
    if options["teacher"] is not None:
        teacher = load_teacher(options["teacher"], options["catalogue"], recipe.size, labels)
    trainer = Trainer(network, train, held, recipe, teacher)
    if options["resume"] is not None:
        trainer.resume(options["resume"])
    trainer.run(options["out"])


if __name__ == "__main__":
    main()
