"""Training of the style network: its losses, its loop, its checkpoints; the command is `__main__.py`.

What makes it quick on a CPU: bfloat16, channels last, the loss network's batch norms folded away, its strided
depthwise convolutions in float32 (their gradients in bfloat16 take ten times as long), and instance norms
written for it (`norm.py`).
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.efficientnet_lite import Backbone
from models.image import Pixels, encode
from models.style.losses import (
    CONTENT_TAP,
    MARGIN,
    STYLE_TAPS,
    Perceptual,
    content_cost,
    gram_matrix,
    style_cost,
    total_variation,
)
from models.style.transfer import StyleNetwork, save
from models.training.fold import fold
from models.training.precision import autocast, spare_strided
from models.training.progress import Progress
from models.training.style import data as data
from models.training.style.norm import hasten
from models.training.style.repetition import repetition_cost
from models.training.style.sheet import sheet


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        size: side of the training crops, pixels, a multiple of 32.
        shortest: shorter side of the images that they are cut from.
        painting_size: longest side of the paintings: the larger, the larger the strokes.
        batch: images that are compared with their style together.
        groups: batches a step, each in a style of its own; a thread computes each, which beside other work on
            the cores loses less than threads that wait for each other in every layer.
        steps: how long, or
        minutes: how long; measuring, saving and time that the process was stopped do not count.
        deadline: Unix time at which it is over whatever `minutes` is; None: never.
        rate, style_rate: Adam's learning rate for the convolutions, and for the styles' scales and shifts.
        warmup: steps in which the rate rises from nothing.
        average: decay of the moving average of the weights, per step.
        content_weight, style_weight, variation_weight, palette_weight, repetition_weight: of the costs.
        report_every: steps between two rows of the history.
        measure_every: steps between two measurements, with checkpoint and contact sheet.
        held: how many held-out images to measure on.
        sheet_size: longest side of an image on the contact sheet.
        channels, quarter_channels, blocks: of the network, see `StyleConfig`.
        seed: of everything random.
    """

    size: int = 256
    shortest: int = 352
    painting_size: int = 448
    batch: int = 2
    groups: int = 2
    steps: int = 20_000
    minutes: float | None = None
    deadline: float | None = None
    rate: float = 1e-3
    style_rate: float = 3e-3
    warmup: int = 100
    average: float = 0.998
    content_weight: float = 1.0
    style_weight: float = 5.0
    variation_weight: float = 2.0
    palette_weight: float = 3.0
    repetition_weight: float = 2.0
    report_every: int = 100
    measure_every: int = 1000
    held: int = 12
    sheet_size: int = 320
    channels: int = 32
    quarter_channels: int = 64
    blocks: int = 5
    seed: int = 0


PARTS = ("content", "style", "variation", "palette", "repetition")

DETAIL_TAP = 3
"""A block of stride 8 whose features count as content beside `CONTENT_TAP`'s: letters are as small."""


class Costs:
    """The costs of painted images: of content each against its own image, of style all against one painting.

    Style is compared in the mean over a batch, not image by image: a painting has flat parts too, and a
    network that must find the whole painting in every image stamps one of its details all over a plain sky.

    Args:
        backbone: with ImageNet's weights; it is changed for speed and frozen.
        paintings: uint8 [h, w, 3] each.
    """

    def __init__(self, backbone: Backbone, paintings: Sequence[Pixels], recipe: Recipe) -> None:
        fold(backbone.eval())
        spare_strided(backbone)
        self.perceptual = Perceptual(backbone.to(memory_format=torch.channels_last))
        self.weights = torch.tensor([getattr(recipe, f"{part}_weight") for part in PARTS])
        shown = [planes(torch.from_numpy(pixels)[None]) for pixels in paintings]
        with torch.no_grad():
            self.targets = [self.perceptual(painting)[1] for painting in shown]
            self.palettes = [palette(painting) for painting in shown]

    def __call__(
        self, painted: Tensor, content: Tensor, style: int, shift: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """The costs of a batch.

        Args:
            painted, content: Tensor[N, 3, H, W], 0..255.
            style: index of the painting.
            shift: see `Perceptual`.

        Returns:
            Tensor[5], unweighted: `PARTS`.
        """
        with autocast():
            with torch.no_grad():
                wanted = self.perceptual.maps(content, (DETAIL_TAP, CONTENT_TAP), shift)
            maps = self.perceptual.maps(painted, STYLE_TAPS, shift)
            grams = [gram_matrix(map_) for map_ in maps]
        found = [maps[STYLE_TAPS.index(tap)] for tap in (DETAIL_TAP, CONTENT_TAP)]
        contents = [content_cost(a.float(), b.float()) for a, b in zip(found, wanted, strict=True)]
        costs = (
            torch.stack(contents).mean(),
            style_cost([gram.float().mean(dim=0, keepdim=True) for gram in grams], self.targets[style])[0],
            total_variation(painted).mean(),
            palette_cost(palette(painted), self.palettes[style]),
            repetition_cost(painted, content).mean(),
        )
        return torch.stack(costs)


COLOURS = 4096
"""Colours of a palette: so many quantiles of each projection."""


def palette(images: Tensor) -> Tensor:
    """The distribution of the colours of a batch, Tensor[N, 3, H, W] of 0..255 -> Tensor[COLOURS, D].

    Column by column the sorted projections of its colours on directions of the colour space, each from 0 to
    about 1; squares of `POOL` x `POOL` pixels are one colour. The mean squared distance of two such tables is
    their sliced Wasserstein distance (Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures",
    2015).
    """
    colours = F.avg_pool2d(images.float() / 255, POOL).permute(0, 2, 3, 1).flatten(0, 2)
    ordered = (colours @ DIRECTIONS.T).sort(dim=0).values
    return F.interpolate(ordered.T[None], COLOURS, mode="linear", align_corners=True)[0].T


POOL = 4
DIRECTIONS = F.normalize(
    torch.tensor([(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)][14:]).float()
)
"""Tensor[13, 3]: of a cube's edges, faces and corners, one of each opposite pair."""


def palette_cost(one: Tensor, target: Tensor) -> Tensor:
    """Squared distance of two palettes relative to the variance of the second: a scalar."""
    return (one - target).square().mean() / target.var(dim=0).mean().clamp_min(1e-8)


def planes(batch: Tensor) -> Tensor:
    """uint8 Tensor[N, H, W, 3] -> float Tensor[N, 3, H, W], channels last."""
    return batch.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)


def shift_of(step: int) -> tuple[int, int]:
    """The shift of a step's images: all the 64 shifts below `MARGIN`, in a mixed order."""
    place = step * 27 % MARGIN**2  # 27 and 64 are coprime, and neighbours lie apart
    return place // MARGIN, place % MARGIN


class Trainer:
    """One training: network, its average, optimiser and place, all of which a checkpoint keeps.

    Args:
        network: to train; its styles are those of the costs' paintings, in their order.
        costs: of what it paints.
        train: uint8 [h, w, 3] images.
        held: held-out ones, for measuring and for the sheets.
        shares: how often each style is trained, in proportion; equally often if left out.
    """

    def __init__(
        self,
        network: StyleNetwork,
        costs: Costs,
        train: Sequence[Pixels],
        held: Sequence[Pixels],
        recipe: Recipe,
        shares: Sequence[float] | None = None,
    ) -> None:
        self.recipe, self.costs, self.train, self.held = recipe, costs, train, held
        self.shares = shares or [1.0] * len(network.styles)
        self.network = network.train().to(memory_format=torch.channels_last)
        hasten(self.network)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        shared = [p for name, p in self.network.named_parameters() if name != "styles"]
        self.optimiser = torch.optim.Adam(
            [
                {"params": shared, "peak": recipe.rate},
                {"params": [self.network.styles], "peak": recipe.style_rate},
            ]
        )
        self._pool = ThreadPoolExecutor(recipe.groups)
        self.progress = Progress(recipe.steps, recipe.minutes, recipe.deadline)
        self.steps, self.best = 0, math.inf
        self.history: list[dict[str, float]] = []

    def run(self, out: Path) -> None:
        """Trains to the end, measuring and saving on the way."""
        recipe = self.recipe
        out.mkdir(parents=True, exist_ok=True)
        self.progress.skip()
        total = torch.zeros(len(PARTS))
        for groups in data.batches(
            self.train, self.shares, recipe.size, (recipe.groups, recipe.batch), recipe.seed, self.steps
        ):
            total += self.train_step(groups)
            self.progress.step()
            over = self.progress.value >= 1
            if self.steps % recipe.report_every == 0 or over:
                since = self.steps % recipe.report_every or recipe.report_every
                self.report(dict(zip(PARTS, (total / since).tolist(), strict=True)), out)
                total.zero_()
            if self.steps % recipe.measure_every == 0 or over:
                self.report(self.measure(), out)
                self.keep(out)
                self.progress.skip()
            if over:
                break

    def train_step(self, groups: Sequence[tuple[Tensor, int]]) -> Tensor:
        """One step of the optimiser and of the average; the mean costs, Tensor[5]."""
        warm = min(1.0, (self.steps + 1) / self.recipe.warmup)
        cosine = 0.02 + 0.98 * (1 + math.cos(math.pi * self.progress.value)) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * warm * cosine
        parameters = list(self.network.parameters())
        results = list(self._pool.map(lambda group: self._gradients(group[0], group[1], parameters), groups))
        for index, parameter in enumerate(parameters):
            parameter.grad = torch.stack([gradients[index] for _, gradients in results]).mean(dim=0)
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self.steps += 1
        self._follow()
        return torch.stack([costs for costs, _ in results]).mean(dim=0)

    def _gradients(
        self, images: Tensor, style: int, parameters: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """The costs of one batch, and the gradients of their weighted sum."""
        content = planes(images)
        painted = self.paint(self.network, content, self.network.styles[[style] * len(images)])
        costs = self.costs(painted, content, style, shift_of(self.steps))
        return costs.detach(), torch.autograd.grad(costs @ self.costs.weights, parameters)

    @staticmethod
    def paint(network: StyleNetwork, content: Tensor, codes: Tensor) -> Tensor:
        """`StyleNetwork.forward` in bfloat16."""
        with autocast():
            painted: Tensor = network(content, codes)
        return painted

    @torch.no_grad()
    def _follow(self) -> None:
        keep = self.recipe.average * (1 - math.exp(-self.steps / 300))  # a lower decay at first
        torch._foreach_lerp_(
            list(self.average.parameters()), [p.detach() for p in self.network.parameters()], 1 - keep
        )

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Mean costs of the averaged network on the middles of held-out images; of style, by style too."""
        side = min(min(pixels.shape[:2]) for pixels in self.held) // 32 * 32
        row: dict[str, float] = {}
        total = torch.zeros(len(PARTS))
        for index, style in enumerate(self.network.config.styles):
            parts = torch.zeros(len(PARTS))
            for pixels in self.held:
                top, left = ((edge - side) // 2 for edge in pixels.shape[:2])
                content = planes(torch.from_numpy(pixels[top : top + side, left : left + side].copy())[None])
                painted = self.paint(self.average, content, self.average.styles[[index]])
                parts += self.costs(painted, content, index) / len(self.held)
            row[f"held_style_{style.name}"] = parts[1].item()
            total += parts / len(self.network.config.styles)
        row |= {f"held_{name}": value for name, value in zip(PARTS, total.tolist(), strict=True)}
        return row | {"held_cost": (total @ self.costs.weights).item()}

    def report(self, row: dict[str, float], out: Path) -> None:
        """Adds a row to the history, and prints it."""
        place = {"step": self.steps, "progress": self.progress.value, "seconds": self.progress.active}
        self.history.append(place | row)
        (out / "history.json").write_text(json.dumps(self.history, indent=1))
        print(" ".join(f"{name} {value:.4g}" for name, value in self.history[-1].items()), flush=True)

    def keep(self, out: Path) -> None:
        """Writes checkpoint, weights and contact sheet."""
        save(self.average, out / "last.safetensors")
        cost = self.history[-1]["held_cost"]
        if cost < self.best:
            self.best = cost
            save(self.average, out / "best.safetensors")
        shown = sheet(self.average, self.held[:4], self.recipe.sheet_size)
        (out / f"sheet-{self.steps:06d}.png").write_bytes(encode(shown, "png"))
        self.save(out / "last.pt")

    def save(self, path: Path) -> None:
        """Writes all that `resume` needs; a crash while writing leaves the old file."""
        state = {
            "styles": [style.name for style in self.network.config.styles],
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "place": {"steps": self.steps, "best": self.best},
            "progress": {"value": self.progress.value, "active": self.progress.active},
            "history": self.history,
        }
        fresh = path.with_suffix(".new")
        torch.save(state, fresh)
        fresh.replace(path)

    def resume(self, path: Path) -> None:
        """Goes on where `save` left off.

        Raises:
            ValueError: it is of other paintings, or of these in another order.
        """
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state["styles"] != [style.name for style in self.network.config.styles]:
            raise ValueError(f"{path.name} is of the paintings {', '.join(state['styles'])}, in this order")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps, self.best = state["place"]["steps"], state["place"]["best"]
        self.progress.value, self.progress.active = state["progress"]["value"], state["progress"]["active"]
        self.history = state["history"]
