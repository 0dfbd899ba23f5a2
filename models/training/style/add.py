"""Teaches a trained style network one more painting: only the new style's scales and shifts learn.

    python -m models.training.style.add styles.safetensors painting.jpg --data IMAGES \\
        --trunk efficientnet-lite0-57934424.pth --out more-styles.safetensors --steps 1000

Dumoulin, Shlens and Kudlur (ICLR 2017, https://arxiv.org/abs/1610.07629), section 3.2 and figure 5: the
shared weights are trained already, so a new style is soon learned and the old ones stay as they were, bit for
bit. With `--again` a painting that the network knows learns on from where it is.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from models.classification.efficientnet import load as load_classifier
from models.image import Pixels
from models.pipeline import Style
from models.style.transfer import StyleNetwork, load, save
from models.training.progress import Progress
from models.training.style import data as data
from models.training.style.norm import hasten
from models.training.style.repetition import levels_cost
from models.training.style.trainer import PARTS, Costs, Recipe, Trainer, planes, shift_of

OF_WHOLE_NETWORKS = (
    *("groups", "rate", "average", "measure_every", "held", "sheet_size"),
    *("channels", "quarter_channels", "blocks"),
)
"""Fields of a recipe that mean nothing here."""


def add(
    network: StyleNetwork,
    style: Style,
    costs: Costs,
    images: Sequence[Pixels],
    recipe: Recipe,
    *,
    again: bool = False,
    levels_weight: float = 0.0,
) -> StyleNetwork:
    """Learns a style.

    Args:
        network: a trained one; it is not changed.
        style: the new one's name, title and thumbnail.
        costs: with the new painting as its only one.
        images: uint8 [h, w, 3] each, to paint.
        recipe: `style_rate`, `batch`, `size`, the weights of the costs, and how long.
        again: the network has the style, which learns on.
        levels_weight: of `repetition.levels_cost`.

    Returns:
        The network with one style more, the last, or with the one that has learnt on; in eval mode.

    Raises:
        ValueError: the network has a style of that name, or, `again`, has none.
    """
    names = [one.name for one in network.config.styles]
    index = names.index(style.name) if again else len(names)
    config = network.config if again else replace(network.config, styles=(*network.config.styles, style))
    copied = copy.deepcopy(network).requires_grad_(False).to(memory_format=torch.channels_last)
    hasten(copied)
    known = network.styles.detach()
    code = nn.Parameter(known[index].clone() if again else known.mean(dim=0))  # between all that exist
    optimiser = torch.optim.Adam([code], lr=recipe.style_rate)
    progress = Progress(recipe.steps, recipe.minutes, recipe.deadline)
    total, steps = torch.zeros(len(PARTS)), 0
    for [(batch, _)] in data.batches(images, [1.0], recipe.size, (1, recipe.batch), recipe.seed):
        warm = min(1.0, (steps + 1) / recipe.warmup)
        optimiser.param_groups[0]["lr"] = recipe.style_rate * warm * (1 - 0.95 * progress.value)
        parts = _step(copied, code, costs, batch, shift_of(steps), levels_weight)
        optimiser.step()
        progress.step()
        total, steps = total + parts, steps + 1
        over = progress.value >= 1
        if steps % recipe.report_every == 0 or over:
            means = (total / (steps % recipe.report_every or recipe.report_every)).tolist()
            shown = " ".join(f"{name} {value:.4g}" for name, value in zip(PARTS, means, strict=True))
            print(f"step {steps} progress {progress.value:.3f} {shown}", flush=True)
            total.zero_()
        if over:
            break
    longer = StyleNetwork(config)
    state = network.state_dict()
    longer.load_state_dict(
        state | {"styles": torch.cat((known[:index], code.detach()[None], known[index + 1 :]))}
    )
    return longer.eval()


def _step(
    copied: StyleNetwork,
    code: nn.Parameter,
    costs: Costs,
    images: Tensor,
    shift: tuple[int, int],
    levels_weight: float,
) -> Tensor:
    """Puts the gradient into `code`; the costs, Tensor[5]."""
    content = planes(images)
    painted = Trainer.paint(copied, content, code.expand(len(images), -1))
    parts = costs(painted, content, 0, shift)
    code.grad = None
    cost = parts @ costs.weights
    if levels_weight:
        cost = cost + levels_weight * levels_cost(painted, content).mean()
    cost.backward()
    return parts.detach()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the top of this file."""
    recipe = Recipe(steps=1000, style_rate=0.01, warmup=1)
    parser = argparse.ArgumentParser(prog="python -m models.training.style.add", description=main.__doc__)
    parser.add_argument("weights", type=Path, help="of the trained network")
    parser.add_argument("painting", type=Path, help="its file name, without suffix, names the style")
    parser.add_argument("--title", help="of the painting")
    parser.add_argument("--artist", help="of the painting")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of images")
    parser.add_argument("--trunk", type=Path, required=True, help="EfficientNet-Lite0's checkpoint (.pth)")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--again", action="store_true", help="the network has the style, which learns on")
    parser.add_argument("--plain", type=float, default=0.0, help="share of made plain images")
    parser.add_argument("--levels-weight", type=float, default=0.0, help="of what is repeated, in levels")
    for name, kind in Recipe.__annotations__.items():
        if name not in OF_WHOLE_NETWORKS:
            number = float if "float" in str(kind) else int
            parser.add_argument(f"--{name.replace('_', '-')}", type=number, help=f"see Recipe.{name}")
    options = vars(parser.parse_args(arguments))
    chosen = {n: v for n, v in options.items() if v is not None and n in Recipe.__annotations__}
    recipe = replace(recipe, **chosen)

    painting = data.painting(
        options["painting"], recipe.painting_size, title=options["title"], artist=options["artist"]
    )
    costs = Costs(load_classifier(options["trunk"]).backbone, [painting.pixels], recipe)
    train, _ = data.split(data.files(options["data"]))
    images = data.WithPlain(data.Images(train, recipe.shortest), options["plain"], recipe.shortest)
    how = {"again": options["again"], "levels_weight": options["levels_weight"]}
    save(add(load(options["weights"]), painting.style, costs, images, recipe, **how), options["out"])


if __name__ == "__main__":
    main()
