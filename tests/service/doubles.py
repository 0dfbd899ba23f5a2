"""A small real network behind the Pipeline protocol, quick enough to serve hundreds of times in a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.image import Image
from models.pipeline import Card, Kind, Pipeline, Prepared
from service.engine.runner import Runner

SHAPE = (8, 8, 3)


class Mean(nn.Module):
    """uint8 [N, 8, 8, 3] -> mean per channel [N, 3], and a count that tells how large the batch was."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean = images.float().mean(dim=(1, 2))
        return mean, torch.zeros_like(mean[:, :1])


class MeanPipeline(Pipeline):
    """Answers (context, mean of the first channel); a context named `poison` makes its batch fail."""

    min_side = None
    shapes = (SHAPE,)

    def __init__(self, name: str = "mean", module: nn.Module | None = None) -> None:
        self.card = Card(name, Kind.CLASSIFY, "MIT", "0" * 64)
        self.module = (module or Mean()).eval()

    def preprocess(self, image: Image, options: Any = None) -> Prepared:
        return item(int(image.pixels.mean()), options)

    def postprocess(self, outputs: tuple[NDArray[Any], ...], contexts: Sequence[Any]) -> list[Any]:
        if "poison" in contexts:
            raise ValueError("poison")
        return [(context, float(value)) for context, value in zip(contexts, outputs[0][:, 0], strict=True)]


def item(value: int, context: Any = None) -> Prepared:
    return Prepared((np.full(SHAPE, value, np.uint8),), context)


async def make_ready(runner: Runner) -> None:
    """Makes a runner ready, as an engine does."""
    await runner.warm()
    await runner.rehearse()
