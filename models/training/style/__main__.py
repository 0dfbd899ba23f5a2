"""Trains the style network for some paintings; made for a CPU and a fixed amount of time.

    python -m models.training.style --data IMAGES [IMAGES ...] --paintings great_wave.jpg udnie.jpg \\
        --trunk efficientnet-lite0-57934424.pth --out run --minutes 90

Writes to the output folder: `last.pt` (to go on with `--resume`), `last.safetensors` and `best.safetensors`
(the averaged weights, now and when they cost least on held-out images), `history.json` (the costs) and
`sheet-STEP.png` (held-out images in all styles).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from models.classification.efficientnet import load as load_classifier
from models.style.config import StyleConfig
from models.style.transfer import StyleNetwork, load
from models.training.style import data
from models.training.style.trainer import Costs, Recipe, Trainer


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m models.training.style", description=main.__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of images")
    parser.add_argument("--paintings", type=Path, nargs="+", required=True, help="the styles, a file each")
    for name, what in (
        ("scale", "longest side of a painting, pixels, instead of --painting-size: great_wave=928"),
        ("part", "left, top, right, bottom of the part that is learnt, as shares: udnie=0,0.1,0.6,0.9"),
        ("share", "how often a painting is trained; 1 if left out: udnie=3"),
    ):
        parser.add_argument(
            f"--{name}", type=data.of_styles, nargs="+", default=[], metavar="NAME=", help=what
        )
    parser.add_argument("--trunk", type=Path, required=True, help="EfficientNet-Lite0's checkpoint (.pth)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--resume", type=Path, help="a last.pt to go on from")
    parser.add_argument("--init", type=Path, help="weights to start from, of the same shape and paintings")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    for name, kind in Recipe.__annotations__.items():
        number = float if "float" in str(kind) else int
        parser.add_argument(f"--{name.replace('_', '-')}", type=number, help=f"see Recipe.{name}")
    options = vars(parser.parse_args(arguments))
    recipe = Recipe(**{n: options[n] for n in Recipe.__annotations__ if options[n] is not None})
    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])

    torch.manual_seed(recipe.seed)
    scale, part, share = (dict(options[name]) for name in ("scale", "part", "share"))
    whole = (0.0, 0.0, 1.0, 1.0)
    paintings = [
        data.painting(
            path,
            int(scale.get(path.stem, (recipe.painting_size,))[0]),
            part=part.get(path.stem, whole),
        )
        for path in options["paintings"]
    ]
    config = StyleConfig(
        tuple(one.style for one in paintings), (recipe.channels, recipe.quarter_channels), recipe.blocks
    )
    network = StyleNetwork(config)
    if options["init"] is not None:
        network.load_state_dict(load(options["init"]).state_dict())
    costs = Costs(load_classifier(options["trunk"]).backbone, [one.pixels for one in paintings], recipe)
    train, held = data.split(data.files(options["data"]))
    print(f"{len(train)} images to train on, {len(held)} held out, {len(paintings)} styles", flush=True)
    held = held[:: max(1, len(held) // recipe.held)][: recipe.held]
    trainer = Trainer(
        network,
        costs,
        data.Images(train, recipe.shortest),
        data.Images(held, recipe.shortest),
        recipe,
        [share.get(one.style.name, (1.0,))[0] for one in paintings],
    )
    if options["resume"] is not None:
        trainer.resume(options["resume"])
    trainer.run(options["out"])


if __name__ == "__main__":
    main()
