"""Style networks side by side: what their paintings cost, on photographs that none has learnt from.

    python -m models.training.style.compare old.safetensors new.safetensors --images a.jpg b.jpg \\
        --paintings great_wave.jpg udnie.jpg --scale great_wave=928 --trunk efficientnet-lite0-57934424.pth

Prints a Markdown table with a row for each network and style.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from models.classification.efficientnet import load as load_classifier
from models.image import Image, Pixels, decode, resize
from models.style.losses import Perceptual, content_cost, style_cost, total_variation
from models.style.transfer import StyleNetwork, load
from models.training.style.data import of_styles, painting
from models.training.style.sheet import painted
from models.training.style.trainer import palette, palette_cost, planes


@torch.no_grad()
def compare(
    network: StyleNetwork,
    images: Sequence[Image],
    paintings: dict[str, Pixels],
    perceptual: Perceptual,
    size: int,
) -> dict[str, list[float]]:
    """The mean costs of images in each of a network's styles.

    Args:
        network: in eval mode.
        images: photographs.
        paintings: uint8 [h, w, 3] by style, as large as they are compared.
        perceptual: the loss network.
        size: longest side at which the images are painted and compared, pixels.

    Returns:
        By style: style, content, variation (`models.style.losses`, without weights) and palette
        (`models.training.style.trainer`).
    """
    found = {}
    for style in network.config.styles:
        target = planes(torch.from_numpy(paintings[style.name])[None])
        grams, colours = perceptual(target)[1], palette(target)
        rows = []
        for image in images:
            scale = size / max(image.width, image.height)
            height, width = (max(32, round(side * scale)) for side in (image.height, image.width))
            pixels = resize(image.pixels, height, width)
            content, result = (
                planes(torch.from_numpy(each)[None])
                for each in (pixels, painted(network, pixels, style.name))
            )
            features, own = perceptual(result)
            rows.append(
                (
                    style_cost(own, grams).item(),
                    content_cost(features, perceptual.content(content)).item(),
                    total_variation(result).item(),
                    palette_cost(palette(result), colours).item(),
                )
            )
        found[style.name] = torch.tensor(rows).mean(dim=0).tolist()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m models.training.style.compare", description=main.__doc__)
    parser.add_argument("weights", type=Path, nargs="+", help="of `models.training.style`")
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--size", type=int, default=512, help="longest side of an image, pixels")
    parser.add_argument("--paintings", type=Path, nargs="+", required=True, help="of all styles, STYLE.jpg")
    parser.add_argument("--painting-size", type=int, default=448, help="longest side of a painting, pixels")
    parser.add_argument("--scale", type=of_styles, nargs="+", default=[], help="of some: great_wave=928")
    parser.add_argument("--trunk", type=Path, required=True, help="EfficientNet-Lite0's checkpoint (.pth)")
    options = parser.parse_args(arguments)
    scale = dict(options.scale)
    paintings = {
        path.stem: painting(path, int(scale.get(path.stem, (options.painting_size,))[0])).pixels
        for path in options.paintings
    }
    images = [decode(path.read_bytes()) for path in options.images]
    perceptual = Perceptual(load_classifier(options.trunk).backbone)
    print("| network | style | style cost | content cost | variation | palette |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path in options.weights:
        for style, costs in compare(load(path), images, paintings, perceptual, options.size).items():
            print(
                f"| {path.stem} | {style} | " + " | ".join(f"{cost:.3f}" for cost in costs) + " |", flush=True
            )


if __name__ == "__main__":
    main()
