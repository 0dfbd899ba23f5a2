"""The style network of this project; see `models.style.transfer`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import WeightsError
from models.options import read_options
from models.pipeline import Kind
from models.style.config import read_config
from models.style.pipeline import BUCKETS, StylePipeline

if TYPE_CHECKING:
    from torch import nn

    from models.weights import Entry


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """Options of the builder.

    Attributes:
        buckets: height and width of the canvases, multiples of 4.
    """

    buckets: tuple[tuple[int, int], ...] = BUCKETS


def build(entry: Entry, files: Mapping[str, Path]) -> StylePipeline:
    """The builder ``style``; options as in `TransferOptions`.

    Raises:
        WeightsError: the file has no configuration of a style network, or a wrong option.
    """
    options = read_options(TransferOptions, entry.options)
    config = read_config(files["weights"])
    card = entry.card(
        Kind.STYLE,
        labels=[style.name for style in config.styles],
        details={"architecture": "transformer network with conditional instance norms"},
    )

    def network() -> nn.Module:
        from models.style.transfer import ServedStyleNetwork, load

        return ServedStyleNetwork(load(files["weights"]))

    try:
        return StylePipeline(card, network, config.styles, buckets=options.buckets)
    except ValueError as error:
        raise WeightsError(str(error)) from error
