"""Sheets of what a classifier looks at, and of what it looks for, as docs/explanations.md shows them.

    python -m models.classification.explain explanations PHOTO SHEET.jpg
    python -m models.classification.explain visualizations FOLDER SHEET.jpg

The second shows 24 channels, of six blocks at even distances four at even distances, and 12 labels, each as
`models.classification.explain.visualize` makes it by default. Images that the folder has already are not made
again, so the work may be done in parts (`--seconds`).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from models import registry
from models.classification.explain import occlusion
from models.classification.explain.drawing import captioned, drawn, sheet
from models.classification.explain.layers import layers_of
from models.classification.explain.maps import Explanation, HeatMap
from models.classification.explain.result import VisualizeOptions
from models.classification.explain.visualize import visualize
from models.classification.pipeline import ClassifierPipeline
from models.image import Image, Pixels, decode, encode, resize
from models.pipeline import eager
from models.weights import Store, standard_catalogue

LABELS = (
    *("goldfish", "flamingo", "German shepherd", "tabby", "zebra", "monarch"),
    *("daisy", "strawberry", "pizza", "volcano", "school bus", "castle"),
)
BLOCKS = ("1", "4", "7", "10", "13", "15")
CHANNELS = 4
SIDE = 192
"""Of a tile, pixels."""


def targets(pipeline: ClassifierPipeline) -> list[tuple[str, VisualizeOptions]]:
    """What is made: a name, and the options."""
    layers = {layer.name: layer for layer in layers_of(pipeline)}
    found = []
    for block in BLOCKS:
        layer = layers[f"backbone.blocks.{block}"]
        for channel in (at * layer.channels // CHANNELS for at in range(CHANNELS)):
            name = f"blocks.{block} channel {channel}"
            found.append((name, VisualizeOptions(layer=layer.name, channel=channel)))
    return found + [(label, VisualizeOptions(label=label)) for label in LABELS]


def visualizations(pipeline: ClassifierPipeline, folder: Path, seconds: float) -> Pixels | None:
    """The sheet, or None where the time has run out before all of its images were made."""
    folder.mkdir(parents=True, exist_ok=True)
    began, tiles, names = time.monotonic(), [], []
    wanted = targets(pipeline)
    for number, (name, options) in enumerate(wanted):
        path = folder / f"{number:02}.png"
        if not path.exists():
            if time.monotonic() > began + seconds:
                print(f"{number} of {len(wanted)} images are made; run it again for the others")
                return None
            path.write_bytes(encode(visualize(pipeline, options), "png"))
            print(name, flush=True)
        tiles.append(resize(decode(path.read_bytes()).pixels, SIDE, SIDE))
        names.append(name)
    steps = VisualizeOptions().steps
    what = f"what raises a channel's mean activation, or a label's logit ({steps} steps, seed 0)"
    return captioned(sheet(tiles, names, 6), [f"{pipeline.card.name}: {what}"])


def explanations(pipeline: ClassifierPipeline, image: Image) -> Pixels:
    """Five explanations of one photograph."""
    explainer = pipeline.explainer()
    found: list[Explanation] = [
        explainer.heat_map(image),
        explainer.saliency(image),
        occluded(pipeline, image),
        explainer.windows(image),
    ]
    tiles = [drawn(image, one) for one in found]
    height = max(len(tile) for tile in tiles)
    tiles = [
        cv2.copyMakeBorder(one, 0, height - len(one), 0, 0, cv2.BORDER_CONSTANT, value=(255,) * 3)
        for one in tiles
    ]
    above = sheet([tile.astype(np.uint8) for tile in tiles], [""] * len(tiles), 2)
    below = drawn(image, explainer.activations(image, layer="backbone.blocks.7", top=17))
    scale = above.shape[1] / below.shape[1]
    below = cv2.resize(below, (above.shape[1], round(len(below) * scale)), interpolation=cv2.INTER_AREA)
    return np.concatenate([above, below.astype(np.uint8)])


def occluded(pipeline: ClassifierPipeline, image: Image) -> HeatMap:
    """Occlusion, by plain passes of the network."""
    (pixels,) = pipeline.preprocess(image).inputs
    height, width, _ = pixels.shape
    squares = occlusion.squares(height, width)
    scores = [
        eager(pipeline.module, one[None])[0][0]
        for one in (pixels, *(occlusion.covered(pixels, s) for s in squares))
    ]
    index = int(scores[0].argmax())
    lost = [float(scores[0][index] - one[index]) for one in scores[1:]]
    grid = occlusion.losses(height, width, squares, lost)
    name, region = pipeline.card.labels[index], pipeline.region(image)
    return HeatMap(index, name, float(scores[0][index]), grid, region, image.width, image.height, "occlusion")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m models.classification.explain", description=__doc__)
    parser.add_argument("what", choices=("explanations", "visualizations"))
    parser.add_argument("source", type=Path, help="a photograph, or the folder of the images")
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no image is begun after so long")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = registry.build("efficientnet-lite0", standard_catalogue(), Store())
    assert isinstance(pipeline, ClassifierPipeline)  # noqa: S101 (it is the catalogue's)
    if arguments.what == "explanations":
        made: Pixels | None = explanations(pipeline, decode(arguments.source.read_bytes()))
    else:
        made = visualizations(pipeline, arguments.source, arguments.seconds)
    if made is not None:
        arguments.sheet.write_bytes(encode(made, "jpeg"))


if __name__ == "__main__":
    main()
