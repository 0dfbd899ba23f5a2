"""What a classifier is asked for and what it answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClassifyOptions:
    """One request's wishes.

    Attributes:
        top_k: how many labels to give, 1 to the model's number of classes.
    """

    top_k: int = 5


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
    """The likeliest classes of one picture.

    Attributes:
        width: of the upright original, pixels.
        height: likewise.
        labels: by falling score.
    """

    width: int
    height: int
    labels: tuple[Label, ...]
