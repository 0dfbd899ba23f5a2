"""The pipeline that all classifiers share: crop, normalise, network, softmax, top k."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classification.result import Classification, ClassifyOptions, Label
from models.errors import ParameterInvalid
from models.image import Image
from models.pipeline import Build, Card, Pipeline, Prepared, check_tensor


@dataclass(frozen=True, slots=True)
class ClassifyContext:
    """What `ClassifierPipeline.postprocess` needs of one request."""

    width: int
    height: int
    top_k: int


class ClassifierPipeline(Pipeline):
    """Pipeline of any classifier (see `models.pipeline.Pipeline`).

    Args:
        card: the public card; its `labels` name the classes and its `input` is the crop's height and width.
        build: of uint8 Tensor[N, H, W, 3] -> probabilities and, where there are any, features.
        crop: decoded image -> uint8 [H, W, 3] (or [H, W, 1]), always of one shape.
        min_side: shortest side that a decoder may reduce an image to without loss for `crop`.
        channels: of what `crop` gives.
        features: length of the features; None where the module gives none.
    """

    explainable = True
    takes_pixels = True

    def __init__(
        self,
        card: Card,
        build: Build,
        crop: Callable[[Image], NDArray[np.uint8]],
        *,
        min_side: int | None,
        channels: int = 3,
        features: int | None = None,
    ) -> None:
        if card.input is None or not card.labels:
            raise ValueError("a classifier's card has a fixed input and labels")
        self.card = replace(card, features=features)
        self.build = build
        self.min_side = min_side
        self.shapes = ((*card.input, channels),)
        self._crop = crop

    def explainer(self, check: Callable[[], None] = lambda: None) -> Any:
        """See `Pipeline.explainer`."""
        from models.classification.explain import activations, cam, saliency, windows  # torch

        return SimpleNamespace(
            heat_map=partial(cam.grad_cam, self),
            saliency=partial(saliency.saliency, self, check=check),
            activations=partial(activations.activations, self),
            windows=partial(windows.windows, self),
        )

    def region(self, image: Image) -> tuple[float, float, float, float]:
        """What the network sees, xyxy in pixels of the upright original; may reach beyond it."""
        side = min(image.width, image.height) * self.card.crop_fraction
        left, top = (image.width - side) / 2, (image.height - side) / 2
        return left, top, left + side, top + side

    def preprocess(self, image: Image, options: ClassifyOptions | None = None) -> Prepared:
        """Crops one image and checks its options.

        Raises:
            ParameterInvalid: `top_k` is above the number of classes.
        """
        context = self._context(image.width, image.height, options)
        return Prepared((self._crop(image),), context)

    def prepare_tensor(self, pixels: NDArray[np.uint8], options: ClassifyOptions | None = None) -> Prepared:
        """The network's own input, uint8 [H, W, 3] as `shapes` has it, cropped and resized by the caller.

        Raises:
            ParameterInvalid: another shape, or `top_k` is above the number of classes.
        """
        height, width, _ = check_tensor(pixels, self.shapes)
        return Prepared((pixels,), self._context(width, height, options))

    def postprocess(
        self, outputs: tuple[NDArray[Any], ...], contexts: Sequence[ClassifyContext]
    ) -> list[Classification]:
        """Probabilities [N, C], features [N, D] -> one result a context."""
        vectors: Sequence[NDArray[np.float32] | None] = [None] * len(contexts)
        if len(outputs) > 1:
            vectors = [vector.copy() for vector in outputs[1][: len(contexts)]]
        return [
            Classification(context.width, context.height, self._top(row, context.top_k), row.copy(), vector)
            for context, row, vector in zip(contexts, outputs[0][: len(contexts)], vectors, strict=True)
        ]

    def _top(self, row: NDArray[np.float32], count: int) -> tuple[Label, ...]:
        """The `count` likeliest classes, by falling score and then by index."""
        indices = (
            np.arange(len(row)) if count == len(row) else np.sort(np.argpartition(-row, count - 1)[:count])
        )
        indices = indices[np.argsort(-row[indices], kind="stable")]
        names = self.card.labels
        return tuple(
            Label(index, names[index], score)
            for index, score in zip(indices.tolist(), row[indices].tolist(), strict=True)
        )

    def _context(self, width: int, height: int, options: ClassifyOptions | None) -> ClassifyContext:
        if options is None:
            options = ClassifyOptions(top_k=min(ClassifyOptions().top_k, len(self.card.labels)))
        if options.top_k > len(self.card.labels):
            raise ParameterInvalid("top_k", f"top_k must be from 1 to {len(self.card.labels)}")
        return ClassifyContext(width, height, options.top_k)
