"""A contact sheet: images in all the styles of a network, an image a row, the image itself first.

    python -m models.training.style.sheet models/weights/paintings.safetensors --images a.jpg b.jpg c.jpg \
        --paintings FOLDER --trunk efficientnet-lite0-57934424.pth --optimised 2 --out docs/styles.jpg

With `--paintings` the sheet begins with a row of these, and under each of the first `--optimised` images
stand the same styles by Gatys' optimiser.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.classification.efficientnet import load as load_classifier
from models.image import Image, Interpolation, Pixels, decode, encode, resize
from models.pipeline import Card, Kind, eager
from models.style.losses import Perceptual
from models.style.optimise import optimise
from models.style.pipeline import StylePipeline
from models.style.result import OptimiseOptions, StyleOptions
from models.style.transfer import ServedStyleNetwork, StyleNetwork, load


def painted(
    network: StyleNetwork,
    pixels: Pixels,
    style: str,
    *,
    strength: float = 1.0,
    canvases: Sequence[tuple[int, int]] = (),
) -> Pixels:
    """Paints as the service does, bytes in and bytes out.

    Args:
        network: in eval mode.
        pixels: uint8 [h, w, 3].
        style: a name.
        strength: 0 to 1.
        canvases: their heights and widths, pixels; if left out, the smallest square that holds the image.

    Returns:
        uint8 [h, w, 3].
    """
    height, width = pixels.shape[:2]
    side = -(-max(height, width) // 4) * 4
    card = Card("sheet", Kind.STYLE, "", "")
    pipeline = StylePipeline(
        card, lambda: ServedStyleNetwork(network), network.config.styles, buckets=canvases or [(side, side)]
    )
    item = pipeline.preprocess(Image(pixels, width, height), StyleOptions(style=style, strength=strength))
    outputs = eager(pipeline.module, item.inputs[0][None])
    return pipeline.postprocess(outputs, [item.context])[0].render(original=pixels)


def scaled(pixels: Pixels, longest: int, interpolation: Interpolation = "bilinear") -> Pixels:
    """An image resized in proportion, so that its longest side has so many pixels."""
    scale = longest / max(pixels.shape[:2])
    height, width = (max(1, round(edge * scale)) for edge in pixels.shape[:2])
    return resize(pixels, height, width, interpolation=interpolation)


def sheet(network: StyleNetwork, images: Sequence[Pixels], longest: int) -> Pixels:
    """Images in all styles, a row each, the image itself first.

    Args:
        network: in eval mode.
        images: uint8 [h, w, 3] each.
        longest: side of a cell, pixels; the images are scaled to it.

    Returns:
        uint8 [rows * longest, (1 + styles) * longest, 3].
    """
    rows = []
    for pixels in images:
        image = scaled(pixels, longest)
        rows.append(
            row([image, *(painted(network, image, style.name) for style in network.config.styles)], longest)
        )
    return np.concatenate(rows)


def row(cells: Sequence[Pixels], side: int) -> Pixels:
    """Images beside each other, each in the middle of a white square, uint8 [side, N * side, 3]."""
    whole = np.full((side, len(cells) * side, 3), 255, np.uint8)
    for number, cell in enumerate(cells):
        height, width = cell.shape[:2]
        top, left = (side - height) // 2, number * side + (side - width) // 2
        whole[top : top + height, left : left + width] = cell
    return whole


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m models.training.style.sheet", description=main.__doc__)
    parser.add_argument("weights", type=Path, help="of `models.training.style`")
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--size", type=int, default=256, help="side of a cell, pixels")
    parser.add_argument("--paintings", type=Path, help="a folder with STYLE.jpg for each style")
    parser.add_argument("--trunk", type=Path, help="EfficientNet-Lite0's checkpoint, for the optimiser")
    parser.add_argument("--optimised", type=int, default=0, help="how many images the optimiser paints too")
    parser.add_argument("--steps", type=int, default=150, help="of the optimiser")
    parser.add_argument("--out", type=Path, required=True, help="a .jpg to write")
    options = parser.parse_args(arguments)
    if options.optimised and (options.paintings is None or options.trunk is None):
        parser.error("--optimised needs --paintings and --trunk")

    network = load(options.weights)
    images = [decode(path.read_bytes()) for path in options.images]
    nothing = np.full((1, 1, 3), 255, np.uint8)
    paintings, rows = [], []
    if options.paintings is not None:
        names = [style.name for style in network.config.styles]
        paintings = [decode((options.paintings / f"{name}.jpg").read_bytes()) for name in names]
        shown = (scaled(painting.pixels, options.size) for painting in paintings)
        rows.append(row([nothing, *shown], options.size))
    chosen = OptimiseOptions(steps=options.steps, size=options.size, preview_every=0)
    for index, image in enumerate(images):
        rows.append(sheet(network, [image.pixels], options.size))
        if index < options.optimised:
            perceptual = Perceptual(load_classifier(options.trunk).backbone.eval())
            made = (optimise(image, painting, perceptual, chosen).pixels for painting in paintings)
            rows.append(row([nothing, *made], options.size))
    options.out.write_bytes(encode(np.concatenate(rows), "jpeg", 88))


if __name__ == "__main__":
    main()
