"""The pipeline that all classifiers share: crop, normalise, network, softmax, top k."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.classification.result import Classification, ClassifyOptions, Label
from models.errors import ParameterInvalid
from models.image import Image
from models.pipeline import Card, Explainer, Pipeline, Prepared, check_tensor


class Classifier(nn.Module):
    """A network with its normalisation before it and a softmax behind it.

    Args:
        network: float Tensor[N, 3, H, W] -> logits Tensor[N, C].
        mean: per channel (RGB), or one for all, in units of the byte, 0..255.
        scale: what is divided by after the mean is taken away, in the same units.

    Attributes:
        features: D, length of the vector that the last layer takes; None without such a layer.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], scale: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.features: int | None = None
        self._kept = threading.local()  # batches of several threads may be under way
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        if layers:
            last = layers[-1]
            self.features = last.in_features if isinstance(last, nn.Linear) else last.in_channels
            last.register_forward_pre_hook(self._keep)
        self.register_buffer(
            "mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False
        )
        self.register_buffer(
            "scale", torch.tensor(scale, dtype=torch.float32).view(1, -1, 1, 1), persistent=False
        )

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 Tensor[N, H, W, 3], RGB -> float Tensor[N, 3, H, W] as the network was trained with."""
        return (images.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.scale

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 Tensor[N, H, W, 3], RGB -> probabilities Tensor[N, C] that sum to one, features Tensor[N, D].

        The features are what the last layer takes, a linear one or a convolution; other networks have none.
        """
        kept = self._kept.__dict__
        kept["features"] = None
        logits: Tensor = self.network(self.normalise(images))
        features = kept.pop("features")
        probabilities = logits.softmax(dim=1)
        return (probabilities,) if features is None else (probabilities, features)

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept = self._kept.__dict__
        if "features" in kept:  # else the network is not called by `forward`
            features = inputs[0]  # of a convolution a map: its mean over the places
            kept["features"] = features if features.dim() == 2 else features.mean((2, 3))


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
        module: uint8 Tensor[N, H, W, 3] -> probabilities and, where there are any, features.
        crop: decoded image -> uint8 [H, W, 3] (or [H, W, 1]), always of one shape.
        min_side: shortest side that a decoder may reduce an image to without loss for `crop`.
        channels: of what `crop` gives.
        features: length of the features; None where the module gives none.
    """

    takes_pixels = True

    def __init__(
        self,
        card: Card,
        module: nn.Module,
        crop: Callable[[Image], NDArray[np.uint8]],
        *,
        min_side: int | None,
        channels: int = 3,
        features: int | None = None,
    ) -> None:
        if card.input is None or not card.labels:
            raise ValueError("a classifier's card has a fixed input and labels")
        self.card = replace(card, features=features)
        self.module = module.eval().requires_grad_(False)
        self.min_side = min_side
        self.shapes = ((*card.input, channels),)
        self._crop = crop

    @property
    def explainer(self) -> Explainer | None:
        from models.classification.explainer import ClassifierExplainer  # it needs this module

        return ClassifierExplainer(self)

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
        largest = max((context.top_k for context in contexts), default=1)
        rows = outputs[0][: len(contexts)]
        top = torch.from_numpy(rows).topk(largest, dim=1)
        scores, indices = top.values.tolist(), top.indices.tolist()
        vectors: Sequence[NDArray[np.float32] | None] = [None] * len(contexts)
        if len(outputs) > 1:
            vectors = [vector.copy() for vector in outputs[1][: len(contexts)]]
        return [
            Classification(
                context.width,
                context.height,
                tuple(
                    Label(index, self.card.labels[index], score)
                    for index, score in zip(
                        row_indices[: context.top_k], row_scores[: context.top_k], strict=True
                    )
                ),
                row.copy(),
                vector,
            )
            for context, row_indices, row_scores, row, vector in zip(
                contexts, indices, scores, rows, vectors, strict=True
            )
        ]

    def _context(self, width: int, height: int, options: ClassifyOptions | None) -> ClassifyContext:
        if options is None:
            options = ClassifyOptions(top_k=min(ClassifyOptions().top_k, len(self.card.labels)))
        if options.top_k > len(self.card.labels):
            raise ParameterInvalid("top_k", f"top_k must be from 1 to {len(self.card.labels)}")
        return ClassifyContext(width, height, options.top_k)
