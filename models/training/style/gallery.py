"""Sheets of photographs in all styles, large enough to judge, for the documents.

    python -m models.training.style.gallery models/weights/paintings.safetensors --images person.jpg alp.jpg \
        --names person landscape --paintings FOLDER --trunk efficientnet-lite0-57934424.pth --out docs/styles

Writes NAME.jpg for every photograph: the photograph and its five styles at 1,024 pixels, as the service
answers; `strengths.jpg`: the first photograph at three strengths; and with `--jobs` `jobs.jpg`: under the
network's styles those of style jobs. A job's image is kept in `--work`, so an interrupted command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.classification.efficientnet import load as load_classifier
from models.image import Image, Pixels, decode, encode, resize
from models.pipeline import Card, Kind, eager
from models.style.losses import Perceptual
from models.style.optimise import optimise
from models.style.pipeline import StylePipeline
from models.style.result import OptimiseOptions, StyleOptions
from models.style.transfer import ServedStyleNetwork, StyleNetwork, load
from models.training.style.sheet import centred

STRENGTHS = (0.33, 0.66, 1.0)
LARGEST = 1_000_000
"""Bytes of a sheet; its JPEG quality is the best that stays below."""


def served(network: StyleNetwork, image: Image, styles: Sequence[str], strength: float = 1.0) -> list[Pixels]:
    """An image in some styles as the service paints it, on its canvases: uint8 [h, w, 3] of its own size."""
    card = Card("gallery", Kind.STYLE, "", "")
    pipeline = StylePipeline(card, lambda: ServedStyleNetwork(network), network.config.styles)
    results = []
    for style in styles:
        item = pipeline.preprocess(image, StyleOptions(style=style, strength=strength))
        outputs = eager(pipeline.module, item.inputs[0][None])
        results.append(pipeline.postprocess(outputs, [item.context])[0].render(original=image.pixels))
    return results


def tiled(cells: Sequence[Pixels], columns: int) -> Pixels:
    """Cells of one size side by side, uint8 [h, w, 3] each; the last row is filled with white."""
    blank = np.full_like(cells[0], 255)
    filled = [*cells, *[blank] * (-len(cells) % columns)]
    return np.concatenate(
        [np.concatenate(filled[row : row + columns], axis=1) for row in range(0, len(filled), columns)]
    )


def compressed(pixels: Pixels) -> bytes:
    """A JPEG of at most `LARGEST` bytes, of quality 88 or less."""
    for quality in range(88, 20, -4):
        data = encode(pixels, "jpeg", quality)
        if len(data) <= LARGEST:
            break
    return data


def _scaled(image: Image, longest: int) -> Image:
    scale = longest / max(image.width, image.height)
    height, width = (max(1, round(side * scale)) for side in (image.height, image.width))
    return Image(resize(image.pixels, height, width, interpolation="bicubic"), width, height)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m models.training.style.gallery", description=main.__doc__)
    parser.add_argument("weights", type=Path, help="of `models.training.style`")
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--names", nargs="+", required=True, help="of the sheets, one for each image")
    parser.add_argument("--size", type=int, default=1024, help="longest side of a photograph, pixels")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--jobs", type=int, default=0, help="how many photographs style jobs paint too")
    parser.add_argument("--job-size", type=int, default=512, help="longest side of a job's image, pixels")
    parser.add_argument("--steps", type=int, default=150, help="of a job")
    parser.add_argument("--paintings", type=Path, help="for jobs: a folder with STYLE.jpg for each style")
    parser.add_argument("--trunk", type=Path, help="for jobs: EfficientNet-Lite0's checkpoint")
    parser.add_argument("--work", type=Path, help="for jobs: a folder that keeps their images")
    options = parser.parse_args(arguments)
    if len(options.names) != len(options.images):
        parser.error("--names needs a name for each image")
    if options.jobs and None in (options.paintings, options.trunk, options.work):
        parser.error("--jobs needs --paintings, --trunk and --work")

    network, out = load(options.weights), options.out
    styles = [style.name for style in network.config.styles]
    out.mkdir(parents=True, exist_ok=True)
    images = [_scaled(decode(path.read_bytes()), options.size) for path in options.images]
    for name, image in zip(options.names, images, strict=True):
        sheet = tiled([image.pixels, *served(network, image, styles)], 3)
        (out / f"{name}.jpg").write_bytes(compressed(sheet))
    weak = [cell for strength in STRENGTHS for cell in served(network, images[0], styles[:3], strength)]
    (out / "strengths.jpg").write_bytes(compressed(tiled(weak, 3)))
    if not options.jobs:
        return

    options.work.mkdir(parents=True, exist_ok=True)
    perceptual, rows = Perceptual(load_classifier(options.trunk).backbone), []
    for name, image in list(zip(options.names, images, strict=True))[: options.jobs]:
        small = _scaled(image, options.job_size)
        cells, jobs = served(network, small, styles), []
        for style in styles:
            kept = options.work / f"{name}-{style}.png"
            if not kept.is_file():
                painting = decode((options.paintings / f"{style}.jpg").read_bytes())
                chosen = OptimiseOptions(size=options.job_size, steps=options.steps, preview_every=0)
                kept.write_bytes(encode(optimise(image, painting, perceptual, chosen).pixels, "png"))
            jobs.append(decode(kept.read_bytes()).pixels)
        rows += [centred(cell, options.job_size) for cell in (*cells, *jobs)]
    (out / "jobs.jpg").write_bytes(compressed(tiled(rows, len(styles))))


if __name__ == "__main__":
    main()
