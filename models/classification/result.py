"""What a classifier is asked for and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ClassifyOptions:
    """One request's wishes.

    Attributes:
        top_k: how many labels to give, 1 to the model's number of classes.
        scores: whether to give the scores of all classes besides.
    """

    top_k: int = 5
    scores: bool = False


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
        scores: float32 [C], of every class in the order of the model's labels; None where not asked for.
    """

    width: int
    height: int
    labels: tuple[Label, ...]
    scores: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
