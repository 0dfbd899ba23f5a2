"""Small networks exported in each of the three ways, as the tests of exported networks need them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.exported.pipeline import build
from models.pipeline import Kind, Pipeline
from models.registry import build_entry
from models.weights import Entry, File, sha256_of

FORMATS = ("pt2", "pt", "onnx")


def export(
    network: nn.Module,
    path: Path,
    shape: Sequence[int],
    *,
    free: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Exports by the path's suffix, for images of `shape`; `free`: for any number of them."""
    network.eval()
    rows = 2 if free else 1
    example = torch.zeros(rows, *shape, dtype=dtype)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracers and deprecated exporters
        match path.suffix:
            case ".pt2":
                sizes = ({0: torch.export.Dim("batch", min=1, max=64)},) if free else None
                torch.export.save(torch.export.export(network, (example,), dynamic_shapes=sizes), path)
            case ".pt":
                torch.jit.save(torch.jit.trace(network, example, check_trace=False), path)
            case ".onnx":
                onnx(network, path, example, free=free)
    return path


def onnx(network: nn.Module, path: Path, example: Tensor, *, free: bool, names: Sequence[str] = ()) -> None:
    """By PyTorch's exporter that needs no more than the package onnx."""
    axes: dict[str, Any] = {name: {0: "n"} for name in ("images", *names)} if free else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the other exporter takes 20 s and more packages
        torch.onnx.export(
            network,
            (example,),
            str(path),
            dynamo=False,
            input_names=["images"],
            output_names=list(names) or None,
            dynamic_axes=axes,
        )


def entry(task: Kind, path: Path, options: dict[str, Any], name: str = "mine") -> Entry:
    return Entry(
        name, task, "export", "Apache-2.0", {"weights": File("file", str(path), sha256_of(path))}, options
    )


def served(task: Kind, path: Path, **options: Any) -> Pipeline:
    """The pipeline that a catalogue makes of a file."""
    return build_entry(entry(task, path, options), {"weights": path})


def exported(task: Kind, path: Path, **options: Any) -> Any:
    """As `served`, without the model's name in front of an error."""
    return build(entry(task, path, options), {"weights": path})


class Constant(nn.Module):
    """A network that answers the same rows to every image, and depends on it."""

    def __init__(self, *outputs: Tensor) -> None:
        super().__init__()
        for index, output in enumerate(outputs):
            self.register_buffer(f"output{index}", output)
        self.count = len(outputs)

    def forward(self, images: Tensor) -> Any:
        nothing = images.float().mean((1, 2, 3)).view(-1, 1, 1) * 0
        outputs = tuple(getattr(self, f"output{index}")[None] + nothing for index in range(self.count))
        return outputs[0] if len(outputs) == 1 else outputs


class Classifier(nn.Module):
    """A small classifier with random weights: float [N, 3, H, W] -> logits."""

    def __init__(self, classes: int = 5, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 16, 5, 2, 2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, classes),
        )
        with torch.no_grad():
            self.layers[-1].weight.mul_(20)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits
