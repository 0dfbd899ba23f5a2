"""Options and results of a classifier."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.parameters import Parameters


class ClassifyOptions(Parameters):
    """Options of a request to a classifier."""

    top_k: int = Field(5, ge=1, description="how many labels")


@dataclass(frozen=True, slots=True)
class Label:
    """One class and how likely it is.

    Attributes:
        index: the class's index in the model's labels.
        label: its name.
        score: its probability, 0 to 1.
    """

    index: int
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Classification:
    """The likeliest classes of one image.

    Attributes:
        width: of the upright original, pixels.
        height: likewise.
        labels: by falling score.
        scores: float32 [C], of every class in the order of the model's labels.
        features: float32 [D], what the network's last layer takes; None without such a layer.
    """

    width: int
    height: int
    labels: tuple[Label, ...]
    scores: NDArray[np.float32] = field(repr=False, compare=False)
    features: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    @property
    def embedding(self) -> NDArray[np.float32]:
        """The features as float32 [D] of length 1; zeros stay zeros.

        Raises:
            ValueError: there are none.
        """
        if self.features is None:
            raise ValueError("the network gives no features")
        length = np.linalg.norm(self.features)
        return self.features / length if length else self.features
