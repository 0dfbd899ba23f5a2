"""Torchvision's family of classifiers: AlexNet, VGG, ResNet, GoogLeNet, Inception v3, EfficientNet and more.

Network, crop, normalisation and labels are those that torchvision's weights enum binds to its weights; the
weights themselves come from the catalogue (`url` for torchvision's own, `file` for an operator's).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torchvision
from torch import nn

from models.checkpoint import load_state, read_labels, read_state
from models.classification.classifier import Classifier
from models.classification.pipeline import ClassifierPipeline
from models.errors import WeightsError
from models.image import Image, Pixels, center_crop, resize
from models.options import read_options
from models.pipeline import Kind

if TYPE_CHECKING:
    from models.weights import Entry

# The auxiliary heads, for training only; torchvision's own loading drops them too.
_AUXILIARY = re.compile(r"^(aux1|aux2|AuxLogits)\.")
# DenseNet's published files have the names of an older version of its layers.
_OLD_DENSE = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


@dataclass(frozen=True, slots=True)
class TorchvisionOptions:
    """Options of the builder.

    Attributes:
        arch: a name of `torchvision.models.list_models()`, such as ``resnet50``; required.
        weights: which of the weights enum's members the file is, such as ``IMAGENET1K_V2``; it decides crop,
            normalisation and labels. None: the enum's default.
    """

    arch: str = ""
    weights: str | None = None


def build(entry: Entry, files: Mapping[str, Path]) -> ClassifierPipeline:
    """The builder ``torchvision_classifier``; options as in `TorchvisionOptions`.

    A file of the role "labels" (one name a line) replaces the enum's labels, for weights that an operator has
    tuned to other classes.

    Raises:
        WeightsError: an unknown architecture or enum member, or a file that does not fit the network.
    """
    arch, weights = _weights(read_options(TorchvisionOptions, entry.options))
    labels = _labels(weights, files)
    transforms = weights.transforms()
    (size,), (resized,) = transforms.crop_size, transforms.resize_size
    fraction = size / resized
    network = load(arch, files["weights"], classes=len(labels))
    module = Classifier(network, mean=_bytes(transforms.mean), scale=_bytes(transforms.std))
    card = entry.card(
        Kind.CLASSIFY,
        labels=labels,
        input=(size, size),
        details={"architecture": arch, "weights": weights.name, "crop_fraction": fraction},
        crop_fraction=fraction,
    )
    crop = partial(preset_crop, size=size, resized=resized, interpolation=transforms.interpolation.value)
    return ClassifierPipeline(card, lambda: module, crop, min_side=resized, features=module.features)


def preset_crop(
    image: Image, size: int, resized: int, interpolation: Literal["bilinear", "bicubic"] = "bilinear"
) -> Pixels:
    """Torchvision's Resize(resized) and CenterCrop(size), also in how they round -> uint8 [size, size, 3].

    `center_crop` is quicker and differs by half a pixel at most; these weights are evaluated with this one.
    """
    height, width = image.height, image.width  # not of the pixels, which may be reduced and rounded
    short, long = min(height, width), max(height, width)
    if long > 8 * short:  # a strip: the whole of it, enlarged, could be gigabytes
        return center_crop(image, size, size / resized, interpolation=interpolation)
    longer = int(resized * long / short)
    new_height, new_width = (resized, longer) if height <= width else (longer, resized)
    pixels = resize(image.pixels, new_height, new_width, interpolation=interpolation)
    top, left = round((new_height - size) / 2), round((new_width - size) / 2)
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def load(arch: str, path: Path, *, classes: int) -> nn.Module:
    """One of torchvision's networks with weights of a `.safetensors` or a `.pth` state dict, in eval mode.

    Args:
        arch: torchvision's name.
        path: the file; a `.pth` is read with `weights_only=True`.
        classes: outputs of the last layer.

    Raises:
        WeightsError: the file cannot be read or does not fit; names the first parameters that do not.
    """
    special: dict[str, Any] = {}
    if arch in ("googlenet", "inception_v3"):  # as torchvision sets them for its own weights
        special = {"aux_logits": False, "transform_input": True, "init_weights": False}
    # "meta" spends no time on an initialisation that is overwritten; RegNet computes its widths with tensors.
    with torch.device("cpu" if arch.startswith("regnet") else "meta"):
        network: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=classes, **special)
    state = {
        _OLD_DENSE.sub(r"\1\2", name): tensor
        for name, tensor in read_state(path).items()
        if not _AUXILIARY.match(name)
    }
    return load_state(network, state, f"the file {path.name}", name=arch, assign=True)


def _weights(options: TorchvisionOptions) -> tuple[str, Any]:
    """The architecture's name and the member of its weights enum."""
    arch = options.arch
    known = torchvision.models.list_models(module=torchvision.models)
    if arch not in known:
        close = difflib.get_close_matches(arch, known, n=3, cutoff=0.4)
        raise WeightsError(f"torchvision has no classifier {arch!r}; near it: {', '.join(close) or 'none'}")
    members = torchvision.models.get_model_weights(arch)
    name = members.DEFAULT.name if options.weights is None else options.weights
    if name not in members.__members__:
        raise WeightsError(f"{arch} has no weights {name!r}; there are: {', '.join(members.__members__)}")
    return arch, members[name]


def _labels(weights: Any, files: Mapping[str, Path]) -> tuple[str, ...]:
    if "labels" in files:
        return read_labels(files["labels"])
    if not weights.meta["categories"]:
        raise WeightsError(f"the weights {weights.name} are features without a classifier")
    return tuple(weights.meta["categories"])


def _bytes(levels: list[float]) -> list[float]:
    """Torchvision counts in 0..1, the pipeline in bytes."""
    return [255 * level for level in levels]
