"""The training of the YOLO: the recipe, what makes it quick on a CPU, and the loop.

What makes it quick on a CPU: bfloat16, channels last, the first blocks (half of the arithmetic) not trained,
the backbone's batch norms folded away (see `models/training/fold.py`), and apart from the others two kinds of
depthwise convolution whose gradients are slow in oneDNN (see `prepare`).
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.backbones.efficientnet_lite import MEAN, SCALE
from models.detection.yolo import Yolo, save
from models.training.fold import fold, unfolded
from models.training.precision import autocast, spare_strided
from models.training.progress import Progress
from models.training.yolo import data
from models.training.yolo.augment import Augment
from models.training.yolo.distil import Mimic, Teacher, soften
from models.training.yolo.evaluate import evaluate, pipeline_of
from models.training.yolo.folder import Sample
from models.training.yolo.loss import YoloLoss


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        size: side of the training canvas, pixels, a multiple of 32.
        test_size: side for measuring and for serving.
        batch: images a step.
        epochs: how long, or
        minutes: how long; measuring, saving and time that the process was stopped do not count.
        deadline: Unix time at which it is over whatever `minutes` is; None: never.
        rate, trunk_rate: AdamW's learning rate for neck and heads, and for the backbone.
        decay: weight decay of the convolutions.
        floor: what is left of the rate at the end of the cosine.
        warmup: steps in which the rate rises from nothing.
        average: decay of the moving average of the weights, per step.
        frozen: how many of the backbone's blocks are not trained (the stem neither).
        calm: mosaic and mixup are off and scales vary less for this last part of the training.
        measure_every: epochs between two measurements.
        longest: images are kept in memory with no side above this.
        seed: of everything random.
        share: weight of the teacher in the targets (see `distil.soften`).
        mimic: weight of the auxiliary loss on a darknet teacher's outputs (see `distil.Mimic`).
    """

    size: int = 320
    test_size: int = 384
    batch: int = 16
    epochs: int = 40
    minutes: float | None = None
    deadline: float | None = None
    rate: float = 2e-3
    trunk_rate: float = 3e-4
    decay: float = 0.02
    floor: float = 0.02
    warmup: int = 200
    average: float = 0.998
    frozen: int = 3
    calm: float = 0.15
    measure_every: int = 2
    longest: int = 512
    seed: int = 0
    share: float = 0.5
    mimic: float = 1.0
    augment: Augment = field(default_factory=Augment)
    loss: YoloLoss = field(default_factory=YoloLoss)


def prepare(network: Yolo, frozen: int) -> list[nn.Parameter]:
    """Readies a network for quick training on a CPU; returns the backbone's parameters that learn.

    The stem and the first `frozen` blocks do not learn. oneDNN's gradients of depthwise convolutions are good
    but for two: strided ones in bfloat16 (50 to 200 ms where float32 takes 1 to 20) stay in float32, and
    5 x 5 kernels of the backbone (45 ms each; 0.4% of its weights) keep ImageNet's values.
    """
    spare_strided(network)
    backbone = network.backbone
    fold(backbone.eval())
    backbone.stem.requires_grad_(False)
    backbone.blocks[:frozen].requires_grad_(False)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.kernel_size[0] > 3:
            module.weight.requires_grad_(False)
    return [parameter for parameter in backbone.parameters() if parameter.requires_grad]


class Trainer:
    """One training: network, its average, optimiser and place, all of which a checkpoint keeps."""

    def __init__(
        self,
        network: Yolo,
        train: Sequence[Sample],
        held: Sequence[Sample],
        recipe: Recipe,
        teacher: Teacher | None = None,
    ) -> None:
        self.recipe, self.held, self.teacher = recipe, held, teacher
        self.network = network.to(memory_format=torch.channels_last)
        backbone = prepare(self.network, recipe.frozen)
        self.mimic = nn.ModuleList(
            [Mimic(teacher, network.config.channels)] if teacher and teacher.heads else []
        )
        mine = nn.ModuleList([self.network.neck, self.network.heads, self.mimic])
        ours = list(mine.parameters())
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [p for p in group if (p.ndim > 1) is decayed], "peak": rate, "weight_decay": decay}
                for group, rate in ((ours, recipe.rate), (backbone, recipe.trunk_rate))
                for decayed, decay in ((True, recipe.decay), (False, 0.0))
            ]
        )
        self.images = data.load(train, recipe.longest)
        steps = recipe.epochs * max(1, len(self.images) // recipe.batch)
        self.progress = Progress(steps, recipe.minutes, recipe.deadline)
        self.epoch, self.steps, self.best = 0, 0, -1.0
        self.history: list[dict[str, float]] = []

    def run(self, out: Path) -> None:
        """Trains to the end, measuring and saving on the way."""
        out.mkdir(parents=True, exist_ok=True)
        self.progress.skip()
        while self.progress.value < 1:
            began, parts = time.time(), self.train_epoch()
            self.epoch += 1
            row = {"epoch": self.epoch, "progress": self.progress.value, "seconds": time.time() - began}
            row |= dict(zip(("box", "objectness", "classes", "mimic"), parts.tolist(), strict=True))
            if self.held and (self.epoch % self.recipe.measure_every == 0 or self.progress.value >= 1):
                row |= self.measure()
                save(self.result(), out / f"epoch-{self.epoch}.safetensors")  # for `average.py`
                if row["ap50"] > self.best:
                    self.best = row["ap50"]
                    save(self.result(), out / "best.safetensors")
            self.history.append(row)
            self.save(out / "last.pt")
            (out / "history.json").write_text(json.dumps(self.history, indent=1))
            print(" ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
            self.progress.skip()
        save(self.result(), out / "last.safetensors")

    def result(self) -> Yolo:
        """The averaged weights, as a network to save or to serve."""
        network = unfolded(self.average)
        network.config = replace(network.config, size=self.recipe.test_size)
        return network

    def train_epoch(self) -> Tensor:
        """One pass over the images, or less if the time is over; the mean loss parts, Tensor[4]."""
        self.network.train()
        augment = self.recipe.augment
        if self.progress.value >= 1 - self.recipe.calm:
            augment = replace(augment, mosaic=0.0, mixup=0.0, scale=(0.75, 1.25))
        total = torch.zeros(5)
        seed = self.recipe.seed * 1_000_003 + self.epoch
        for batch in data.batches(self.images, self.recipe.size, self.recipe.batch, augment, seed):
            total += torch.cat((self.train_step(batch), torch.ones(1)))
            self.progress.step()
            if self.progress.value >= 1:
                break
        return total[:4] / total[4]

    def train_step(self, batch: data.Batch) -> Tensor:
        """One step of the optimiser and of the average; the loss parts, Tensor[4]."""
        warm = min(1.0, (self.steps + 1) / self.recipe.warmup)
        floor = self.recipe.floor
        cosine = floor + (1 - floor) * (1 + math.cos(math.pi * self.progress.value)) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * warm * cosine
        images = ((batch.images.permute(0, 3, 1, 2).float() - MEAN) / SCALE).contiguous(
            memory_format=torch.channels_last
        )
        targets, copied = batch.targets, images.new_zeros(())
        with autocast():
            features = self.network.features(images)
            maps = self.network.predict(features)
            if self.teacher is not None:
                lesson = self.teacher(batch.images)
                targets = soften(targets, lesson.found, self.recipe.share, self.teacher.taught)
                for mimic in self.mimic:
                    copied = self.recipe.mimic * mimic(features, lesson)
        loss, parts = self.recipe.loss([map_.float() for map_ in maps], targets, self.network.anchors)
        loss = loss + copied
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
        self.optimiser.step()
        self.steps += 1
        self._follow()
        return torch.cat((parts, copied.detach()[None]))

    @torch.no_grad()
    def _follow(self) -> None:
        keep = self.recipe.average * (1 - math.exp(-self.steps / 300))  # a lower decay at first
        mine, theirs = self.average.state_dict(), self.network.state_dict()
        moving = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[name] for name in moving], [theirs[name] for name in moving], 1 - keep)

    def measure(self) -> dict[str, float]:
        """COCO's figures of the averaged weights on the held-out images."""
        pipeline = pipeline_of(self.average, self.recipe.test_size)
        figures = evaluate(pipeline, self.held, self.network.config.labels)
        return asdict(figures)

    def save(self, path: Path) -> None:
        """Writes all that `resume` needs; a crash while writing leaves the old file."""
        state = {
            "config": self.network.config.dump(),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "mimic": self.mimic.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "place": {"epoch": self.epoch, "steps": self.steps, "best": self.best},
            "progress": {"value": self.progress.value, "active": self.progress.active},
            "history": self.history,
        }
        fresh = path.with_suffix(".new")
        torch.save(state, fresh)
        fresh.replace(path)

    def resume(self, path: Path) -> None:
        """Goes on where `save` left off, with the rates and the decay of this recipe.

        Raises:
            ValueError: it is of a network with other labels, anchors or canvas.
        """
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state["config"] != self.network.config.dump():  # else the heads would continue with other anchors
            raise ValueError(f"{path.name} is of another network: {state['config']}")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.mimic.load_state_dict(state["mimic"])
        wanted = [(group["peak"], group["weight_decay"]) for group in self.optimiser.param_groups]
        self.optimiser.load_state_dict(state["optimiser"])  # and with it the rates of then
        for group, (peak, decay) in zip(self.optimiser.param_groups, wanted, strict=True):
            group["peak"], group["weight_decay"] = peak, decay
        self.epoch, self.steps, self.best = (state["place"][name] for name in ("epoch", "steps", "best"))
        self.progress.value, self.progress.active = state["progress"]["value"], state["progress"]["active"]
        self.history = state["history"]
