"""Torchvision's family of classifiers: AlexNet, VGG, ResNet, GoogLeNet, Inception v3, EfficientNet and more.

Network, crop, normalisation and labels are those that torchvision's weights enum binds to its weights; the
weights themselves come from the catalogue (`url` for torchvision's own, `file` for an operator's).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from models.classification.pipeline import Classifier, ClassifierPipeline
from models.errors import WeightsError
from models.image import Image, Pixels, center_crop, resize
from models.pipeline import Card, Task

if TYPE_CHECKING:
    from models.weights import Entry

# The heads that only training looks at; torchvision's own loading drops them too.
_AUXILIARY = re.compile(r"^(aux1|aux2|AuxLogits)\.")
# DenseNet's published files have the names of an older version of its layers.
_OLD_DENSE = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


def build(entry: Entry, files: Mapping[str, Path]) -> ClassifierPipeline:
    """The builder ``torchvision_classifier``.

    Options:
        arch: a name of `torchvision.models.list_models()`, such as ``resnet50``.
        weights: which of the weights enum's members the file is, such as ``IMAGENET1K_V2``; it decides crop,
            normalisation and labels. Default: the enum's default.

    A file of the role "labels" (one name a line) replaces the enum's labels, for weights that an operator has
    tuned to other classes.

    Raises:
        WeightsError: an unknown architecture or enum member, or a file that does not fit the network.
    """
    where = f"model {entry.name!r}"
    arch, weights = _weights(where, entry.options)
    labels = _labels(where, weights, files)
    transforms = weights.transforms()
    (size,), (resized,) = transforms.crop_size, transforms.resize_size
    fraction = size / resized
    network = load(arch, files["weights"], classes=len(labels), where=where)
    module = Classifier(network, mean=_bytes(transforms.mean), scale=_bytes(transforms.std))
    card = Card(
        name=entry.name,
        task=Task.CLASSIFY,
        licence=entry.licence,
        sha256=entry.files["weights"].sha256,
        labels=labels,
        input=(size, size),
        details={"architecture": arch, "weights": weights.name, "crop_fraction": fraction},
    )
    crop = partial(preset_crop, size=size, resized=resized, interpolation=transforms.interpolation.value)
    return ClassifierPipeline(card, module, crop, min_side=resized)


def preset_crop(
    image: Image, size: int, resized: int, interpolation: Literal["bilinear", "bicubic"] = "bilinear"
) -> Pixels:
    """Torchvision's Resize(resized) and CenterCrop(size), also in how they round -> uint8 [size, size, 3].

    `center_crop` is quicker and sees the same but for half a pixel; these weights are judged by this.
    """
    height, width = image.pixels.shape[:2]
    short, long = min(height, width), max(height, width)
    if long > 8 * short:  # a strip: the whole of it, enlarged, could be gigabytes
        return center_crop(image, size, size / resized, interpolation=interpolation)
    longer = int(resized * long / short)
    new_height, new_width = (resized, longer) if height <= width else (longer, resized)
    pixels = resize(image.pixels, new_height, new_width, interpolation=interpolation)
    top, left = round((new_height - size) / 2), round((new_width - size) / 2)
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def load(arch: str, path: Path, *, classes: int, where: str = "") -> nn.Module:
    """One of torchvision's networks with weights of a `.safetensors` or a `.pth` state dict, in eval mode.

    Args:
        arch: torchvision's name.
        path: the file; a `.pth` is read with `weights_only=True`.
        classes: outputs of the last layer.
        where: what error messages begin with.

    Raises:
        WeightsError: the file cannot be read or does not fit; names the first parameters that do not.
    """
    special: dict[str, Any] = {}
    if arch in ("googlenet", "inception_v3"):  # as torchvision sets them for its own weights
        special = {"aux_logits": False, "transform_input": True, "init_weights": False}
    # "meta" spends no time on an initialisation that is overwritten; RegNet computes its widths with tensors.
    with torch.device("cpu" if arch.startswith("regnet") else "meta"):
        network: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=classes, **special)
    expected = network.state_dict()
    state = _read(path, where)
    # counters of batches, which old files lack and evaluation never reads
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = [name for name in expected if name not in state and name not in optional]
    unexpected = [name for name in state if name not in expected]
    misshapen = [
        f"{name} {tuple(state[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    complaints = [
        f"{kind}: {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen))
        if names
    ]
    if complaints:
        raise WeightsError(f"{where}: the file {path.name} does not fit {arch}; {'; '.join(complaints)}")
    network.load_state_dict(state | {name: torch.tensor(0) for name in optional - state.keys()}, assign=True)
    return network.float().eval()


def _read(path: Path, where: str) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = {_OLD_DENSE.sub(r"\1\2", name): tensor for name, tensor in state.items()}
        if not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise TypeError("not a state dict")
    except Exception as error:  # the readers raise many kinds for a file that is not what it should be
        raise WeightsError(
            f"{where}: the file {path.name} is no state dict: {type(error).__name__}"
        ) from error
    return {name: tensor for name, tensor in state.items() if not _AUXILIARY.match(name)}


def _weights(where: str, options: Mapping[str, Any]) -> tuple[str, Any]:
    """The architecture's name and the member of its weights enum."""
    arch = str(options.get("arch", ""))
    known = torchvision.models.list_models(module=torchvision.models)
    if arch not in known:
        close = difflib.get_close_matches(arch, known, n=3, cutoff=0.4)
        raise WeightsError(
            f"{where}: torchvision has no classifier {arch!r}; near it: {', '.join(close) or 'none'}"
        )
    members = torchvision.models.get_model_weights(arch)
    name = str(options.get("weights", members.DEFAULT.name))
    if name not in members.__members__:
        raise WeightsError(
            f"{where}: {arch} has no weights {name!r}; there are: {', '.join(members.__members__)}"
        )
    return arch, members[name]


def _labels(where: str, weights: Any, files: Mapping[str, Path]) -> tuple[str, ...]:
    if "labels" in files:
        return tuple(files["labels"].read_text(encoding="utf-8").splitlines())
    if not weights.meta["categories"]:
        raise WeightsError(f"{where}: the weights {weights.name} are features without a classifier")
    return tuple(weights.meta["categories"])


def _bytes(levels: list[float]) -> list[float]:
    """Torchvision counts in 0..1, the pipeline in bytes."""
    return [255 * level for level in levels]
