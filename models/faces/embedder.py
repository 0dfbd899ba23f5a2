"""The pipeline that all embedding networks of aligned faces share; the card has their template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ParameterInvalid
from models.faces.result import Embedding
from models.image import Image
from models.pipeline import Build, Card, Pipeline, Prepared, check_tensor


class EmbedderPipeline(Pipeline):
    """Pipeline of an embedding network: an aligned crop of a face -> `Embedding`.

    Args:
        card: the public card; its `face_space` has the side of the crops.
        build: of uint8 Tensor[N, side, side, 3], RGB -> float Tensor[N, dimensions].
    """

    takes_pixels = True

    def __init__(self, card: Card, build: Build) -> None:
        self.card = card
        self.build = build
        self.side = card.space.template.side
        self.shapes = ((self.side, self.side, 3),)

    def preprocess(self, image: Image, options: Any = None) -> Prepared:
        """A crop of `align.cut_faces`, as an image; there are no options.

        Raises:
            ParameterInvalid: another size: an image must go through detection and alignment first.
        """
        if image.pixels.shape != self.shapes[0]:
            what = f"an embedding needs an aligned face of {self.side} x {self.side} pixels"
            raise ParameterInvalid("image", what)
        return Prepared((image.pixels,), None)

    def prepare_tensor(self, pixels: NDArray[np.uint8], options: Any = None) -> Prepared:
        """An aligned crop, uint8 [side, side, 3].

        Raises:
            ParameterInvalid: another shape.
        """
        check_tensor(pixels, self.shapes)
        return Prepared((pixels,), None)

    def postprocess(self, outputs: tuple[NDArray[Any], ...], contexts: Sequence[Any]) -> list[Embedding]:
        """[N, D] -> one embedding a context."""
        return [Embedding(vector.copy(), self.card.sha256) for vector in outputs[0][: len(contexts)]]
