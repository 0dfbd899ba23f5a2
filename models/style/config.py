"""What describes a style network; it is stored with the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from models.checkpoint import read_metadata
from models.errors import WeightsError
from models.pipeline import Style

THUMBNAIL = "thumbnail."
"""Before a style's name: the tensor that is a small JPEG of its painting, uint8."""


@dataclass(frozen=True)
class StyleConfig:
    """The configuration of a network, stored with its weights.

    Attributes:
        styles: in the order of their rows of `StyleNetwork.styles`.
        channels: at half the resolution, and at a quarter of it.
        blocks: how many residual blocks.
    """

    styles: tuple[Style, ...]
    channels: tuple[int, int] = (32, 64)
    blocks: int = 5

    def __post_init__(self) -> None:
        names = [style.name for style in self.styles]
        if not names or len(set(names)) != len(names):
            raise ValueError("a style network needs styles of different names")


def read_config(path: Path) -> StyleConfig:
    """The configuration that `models.style.transfer.save` wrote.

    Raises:
        WeightsError: the file has none.
    """
    raw = read_metadata(path, "config")
    try:
        with safe_open(path, framework="np") as file:
            kept = set(file.keys())
            styles = tuple(
                Style(
                    row["name"],
                    row["title"],
                    row["artist"],
                    file.get_tensor(key).tobytes() if (key := THUMBNAIL + row["name"]) in kept else b"",
                )
                for row in raw["styles"]
            )
        half, quarter = raw["channels"]
        return StyleConfig(styles, (int(half), int(quarter)), int(raw["blocks"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path.name} has no configuration of a style network: {error}") from error
