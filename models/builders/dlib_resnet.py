"""dlib's face embedding network; see `models.faces.dlib_resnet`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from models.checkpoint import read_metadata
from models.errors import WeightsError
from models.faces.embedder import EmbedderPipeline
from models.faces.template import SIDE, TEMPLATE
from models.options import check_range, read_options
from models.pipeline import FaceSpace, Kind

if TYPE_CHECKING:
    from torch import nn

    from models.weights import Entry


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


def read_head(path: Path, base: str) -> tuple[NDArray[np.float32], float]:
    """A projection of `models.training.faces.triplet`: float32 [D, 128], and its threshold.

    Args:
        path: safetensors with the tensor ``weight`` and the metadata ``head``: JSON with ``base`` and
            ``threshold``.
        base: hex SHA-256 of the network's weights; a head fits only the network that it was trained on.

    Raises:
        WeightsError: malformed, or trained on another network.
    """
    about = read_metadata(path, "head")
    try:
        weight, trained_on, threshold = (
            load_file(path)["weight"],
            str(about["base"]),
            float(about["threshold"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path.name} is not a projection head: {error}") from error
    if (
        weight.ndim != 2
        or weight.shape[1] != 128
        or weight.dtype != np.float32
        or not np.isfinite(weight).all()
    ):
        raise WeightsError(
            f"{path.name}: the projection must be finite float32 [D, 128], not {tuple(weight.shape)}"
        )
    if trained_on != base:
        raise WeightsError(f"{path.name} was trained on the network {trained_on[:16]}, not on {base[:16]}")
    return weight, threshold


def build(entry: Entry, files: Mapping[str, Path]) -> EmbedderPipeline:
    """The builder ``dlib_resnet``; options as in `DlibOptions`.

    Files:
        weights: dlib's .dat as converted by `models.faces.dlib_resnet.convert`, which the catalogue names.
        head (optional): a projection trained by `models.training.faces.triplet`, safetensors. The card's
            digest is then that of both files' digests: its vectors do not compare with the plain network's.

    Raises:
        WeightsError: a file is not what it should be, the head was trained on another network, or an option
            is wrong.
    """
    options = read_options(DlibOptions, entry.options)
    sha256, dimensions, threshold, weight = entry.sha256, 128, 0.6, None
    if "head" in files:
        weight, threshold = read_head(files["head"], sha256)
        dimensions = weight.shape[0]
        sha256 = hashlib.sha256(f"{sha256}\n{entry.files['head'].sha256}".encode()).hexdigest()
    if options.threshold is not None:
        threshold = options.threshold
    space = FaceSpace(dimensions, threshold, TEMPLATE)
    details = {"dimensions": dimensions, "metric": space.metric, "threshold": threshold}
    card = entry.card(Kind.EMBED, input=(SIDE, SIDE), details=details)

    def network() -> nn.Module:
        from models.faces.dlib_resnet import load_network

        return load_network(files["weights"], weight)

    return EmbedderPipeline(replace(card, sha256=sha256, face_space=space), network)
