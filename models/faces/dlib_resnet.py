"""dlib's face embedding network, in PyTorch, read from dlib's own file.

A ResNet of 29 convolutions that maps an aligned face of 150 x 150 pixels to 128 numbers; the Euclidean
distance of two faces of one person is mostly below 0.6 (99.4% right on LFW by its author, Davis King:
`dnn_face_recognition_ex.cpp` of dlib). The vectors are not of unit length. He et al., "Deep Residual
Learning" (CVPR 2016), with half the filters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from models.checkpoint import load_state, read_metadata, read_state
from models.errors import WeightsError
from models.faces.dlib_format import Layer, read_network
from models.faces.embedder import EmbedderPipeline
from models.options import check_range, read_options
from models.pipeline import FaceSpace, Kind, Template
from models.weights import Entry

SIDE = 150
"""Side of the crop that the network takes, pixels (see `models.faces.align`)."""

PADDING = 0.25
"""Room around the mean face on each side, in units of the face: what the network was trained with."""

_LEFT_EYE = (0.121737, 0.187122, 0.265825, 0.334606, 0.260918, 0.182743)  # x of the points 36 to 41
_RIGHT_EYE = (0.645647, 0.714428, 0.793132, 0.858516, 0.797510, 0.719335)  # 42 to 47
_EYES_Y = (0.216423, 0.178758, 0.179852, 0.231733, 0.245099, 0.244077)  # of either eye
MEAN_FACE = (
    (sum(_LEFT_EYE) / 6, sum(_EYES_Y) / 6),
    (sum(_RIGHT_EYE) / 6, sum(_EYES_Y) / 6),
    (0.490127, 0.515625),  # tip of the nose: point 30
    (0.254149, 0.780233),  # left corner of the mouth: point 48
    (0.726104, 0.780233),  # right corner: point 54
)
"""dlib's mean of the 68-point annotation, in a unit square that reaches from the brows to the chin."""


def template(side: int = SIDE, padding: float = PADDING) -> Template:
    """dlib's crop: the mean face with padding around it (`get_face_chip_details` in dlib's
    `image_transforms/interpolation.h`)."""
    points = (np.array(MEAN_FACE, np.float32) + np.float32(padding)) / np.float32(2 * padding + 1)
    # dlib counts from the centre of the first pixel, this project from its corner
    points = points * np.float32(side) + np.float32(0.5)
    return Template(side, tuple((x, y) for x, y in points.tolist()))


TEMPLATE = template()

WIDTHS = (32, 32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 256, 256, 256, 256)
"""Channels before the first residual unit and after each of the fourteen."""

STRIDED = (3, 7, 10, 13)
"""Which units halve the image."""


class Unit(nn.Module):
    """A residual unit; dlib's affine layers (frozen batch norms) are folded into its convolutions.

    One that halves the image pools its shortcut and adds what is missing as zeros: channels of the
    shortcut, and, where an even side leaves the unpadded convolution one row and column short, those of the
    branch.
    """

    def __init__(self, inputs: int, outputs: int, side: int, *, halve: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2 if halve else 1, 0 if halve else 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.halve = halve
        self.channels = outputs - inputs
        self.border = int(halve and side % 2 == 0)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv2(F.relu(self.conv1(x)))
        if self.halve:
            x = F.pad(F.avg_pool2d(x, 2), (0, 0, 0, 0, 0, self.channels))
            branch = F.pad(branch, (0, self.border, 0, self.border))
        return F.relu(x + branch)


class FaceResNet(nn.Module):
    """uint8 Tensor[N, 150, 150, 3], RGB -> float Tensor[N, 128], or Tensor[N, D] with a projection as `head`.

    Args:
        mean: of the training images, RGB, 0 to 255; it is taken away and the rest is divided by 256.
    """

    mean: Tensor

    def __init__(self, mean: Sequence[float] = (122.782, 117.001, 104.298)) -> None:
        super().__init__()
        self.register_buffer(
            "mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False
        )
        self.stem = nn.Conv2d(3, WIDTHS[0], 7, 2)
        side = 35  # 150 -> 72 by the stem -> 35 by the pool
        units = []
        for index, (inputs, outputs) in enumerate(pairwise(WIDTHS)):
            units.append(Unit(inputs, outputs, side, halve=index in STRIDED))
            side = side // 2 if index in STRIDED else side
        self.units = nn.Sequential(*units)
        self.embed = nn.Linear(WIDTHS[-1], 128, bias=False)
        self.head: nn.Module = nn.Identity()

    def forward(self, chips: Tensor) -> Tensor:
        x = (chips.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / 256.0
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2)
        x = self.units(x).mean(dim=(2, 3))
        embedding: Tensor = self.head(self.embed(x))
        return embedding


def convert(source: Path, target: Path) -> None:
    """Writes dlib's .dat as safetensors, byte for byte the same each time.

    Raises:
        WeightsError: the file does not parse, or is another network.
    """
    network = read_dat(source)
    save_file({**network.state_dict(), "mean": network.mean.flatten().contiguous()}, target)


def load_network(path: Path) -> FaceResNet:
    """The network with the weights that `convert` wrote.

    Raises:
        WeightsError: the file is none of these.
    """
    tensors = read_state(path)
    mean = tensors.pop("mean", torch.zeros(0))
    if mean.shape != (3,):
        raise WeightsError(f"{path.name} is not a converted face network: it has no mean of three channels")
    return load_state(FaceResNet(mean.tolist()), tensors, path.name)


def read_dat(path: Path) -> FaceResNet:
    """The network with the weights of `dlib_face_recognition_resnet_model_v1.dat`.

    Raises:
        WeightsError: the file does not parse, or is another network.
    """
    parsed = read_network(path.read_bytes())
    network = FaceResNet(parsed.mean)
    layers = iter([layer for layer in parsed.layers if len(layer.params)])
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    try:
        if parsed.size != (SIDE, SIDE):
            raise ValueError(f"an input of {parsed.size}")
        with torch.no_grad():
            for module in convolutions:
                _fill(module, next(layers), next(layers))
            dense = next(layers)
            network.embed.weight.copy_(torch.from_numpy(dense.params.reshape(-1, 128)).t())
        if list(layers):
            raise ValueError("more layers than the network has")
    except (ValueError, StopIteration, RuntimeError, KeyError) as exc:
        raise WeightsError(f"{path.name} is not dlib's face network: {exc or 'too few layers'}") from exc
    return network


def _fill(module: nn.Conv2d, convolution: Layer, affine: Layer) -> None:
    """gamma * (w * x + b) + beta = (gamma w) * x + (gamma b + beta), folded in float64."""
    fields, (rows, columns) = convolution.fields, module.kernel_size
    shape = (module.out_channels, module.in_channels, rows, columns)
    given = tuple(fields[key] for key in ("filters", "rows", "columns", "stride_y", "padding_y"))
    if given != (module.out_channels, rows, columns, module.stride[0], int(module.padding[0])):
        raise ValueError(f"a convolution of {given}")
    filters, bias = np.split(convolution.params.astype(np.float64), [int(np.prod(shape))])
    gamma, beta = np.split(affine.params.astype(np.float64), 2)
    weight = filters.reshape(shape) * gamma[:, None, None, None]
    if module.bias is None:  # never: every convolution here has one
        raise ValueError("no bias")
    module.weight.copy_(torch.from_numpy(weight))
    module.bias.copy_(torch.from_numpy(gamma * bias + beta))


def read_head(path: Path, base: str) -> tuple[Tensor, float]:
    """A projection of `models.training.faces.triplet`: float32 Tensor[D, 128], and its threshold.

    Args:
        path: safetensors with the tensor ``weight`` and the metadata ``head``: JSON with ``base`` and
            ``threshold``.
        base: hex SHA-256 of the network's weights; a head fits only the network that it was trained on.

    Raises:
        WeightsError: malformed, or trained on another network.
    """
    state, about = read_state(path), read_metadata(path, "head")
    try:
        weight, trained_on, threshold = state["weight"], str(about["base"]), float(about["threshold"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path.name} is not a projection head: {error}") from error
    if (
        weight.ndim != 2
        or weight.shape[1] != 128
        or weight.dtype != torch.float32
        or not weight.isfinite().all()
    ):
        raise WeightsError(
            f"{path.name}: the projection must be finite float32 [D, 128], not {tuple(weight.shape)}"
        )
    if trained_on != base:
        raise WeightsError(f"{path.name} was trained on the network {trained_on[:16]}, not on {base[:16]}")
    return weight, threshold


@dataclass(frozen=True, slots=True)
class DlibOptions:
    """Options of the builder.

    Attributes:
        threshold: distance up to which two faces are one person's; None: 0.6, or the head's own.

    Raises:
        ValueError: a value out of its range.
    """

    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_range("threshold", self.threshold, 0, 10)


def build(entry: Entry, files: Mapping[str, Path]) -> EmbedderPipeline:
    """The builder ``dlib_resnet``; options as in `DlibOptions`.

    Files:
        weights: dlib's .dat as converted by `convert`, which the catalogue names.
        head (optional): a projection trained by `models.training.faces.triplet`, safetensors. The card's
            digest is then that of both files' digests: its vectors do not compare with the plain network's.

    Raises:
        WeightsError: a file is not what it should be, the head was trained on another network, or an option
            is wrong.
    """
    options = read_options(DlibOptions, entry.options)
    network, sha256, dimensions, threshold = load_network(files["weights"]), entry.sha256, 128, 0.6
    if "head" in files:
        weight, threshold = read_head(files["head"], sha256)
        head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        head.weight.data = weight
        network.head = head
        dimensions = weight.shape[0]
        sha256 = hashlib.sha256(f"{sha256}\n{entry.files['head'].sha256}".encode()).hexdigest()
    if options.threshold is not None:
        threshold = options.threshold
    space = FaceSpace(dimensions, threshold, TEMPLATE)
    details = {"dimensions": dimensions, "metric": space.metric, "threshold": threshold}
    card = entry.card(Kind.EMBED, input=(SIDE, SIDE), details=details)
    return EmbedderPipeline(replace(card, sha256=sha256, face_space=space), network)
