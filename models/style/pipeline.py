"""The pipeline of the style network: any image into one of a few canvases, and back to its own size.

How a style reaches the network: a canvas is one row higher than its image, and the bytes of that last row
are the weights of the styles (red of column i: style i; 255 for the one that was asked for). So an item is
still one uint8 array [H, W, 3]: the batcher, CUDA graphs and OpenVINO do not depend on styles, and
requests with different ones share a batch. Mixtures, and a style that stands for the image itself, would
need no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import ImageTooLarge, StyleUnknown, echoed
from models.image import Image, Pixels, resize
from models.pipeline import Build, Card, Pipeline, Prepared, Style
from models.style.result import StyleOptions, Stylized

BUCKETS = ((256, 256), (384, 512), (512, 384), (512, 512))
"""Height and width of the canvases: small images, and 4:3, 3:4 and square ones."""

MAX_SIDE = 8192
"""Pixels, of images that are taken; those larger than the canvases are reduced, and enlarged afterwards."""


@dataclass(frozen=True, slots=True)
class StyleContext:
    """What `StylePipeline.postprocess` needs of one request.

    Attributes:
        width, height: of the upright original.
        window: top, left, height, width of the image on the canvas.
        strength: 0 to 1.
    """

    width: int
    height: int
    window: tuple[int, int, int, int]
    strength: float


class StylePipeline(Pipeline):
    """Pipeline of a style network (see `models.pipeline.Pipeline`).

    An image lies in the middle of the smallest canvas that holds it; one larger than all is reduced to the
    canvas that keeps most of it. The rest of a canvas mirrors the image, as often as needed: an instance
    norm takes its statistics of the whole canvas, and a mirrored image has those of the image itself.

    Args:
        card: the public card.
        build: of uint8 Tensor[N, H + 1, W, 3], RGB -> uint8 Tensor[N, H, W, 3].
        styles: in the order of the network.
        buckets: height and width of the canvases, pixels.
    """

    dynamic_size = True
    channels_last = False  # instance norms and mirrored edges would be converted back, at every layer

    def __init__(
        self,
        card: Card,
        build: Build,
        styles: Sequence[Style],
        *,
        buckets: Sequence[tuple[int, int]] = BUCKETS,
    ) -> None:
        if not buckets or any(side < 16 or side % 4 for bucket in buckets for side in bucket):
            raise ValueError("buckets are heights and widths, multiples of 4 from 16 on")
        self.card = card
        self.build = build
        self.styles = tuple(styles)
        self.buckets = sorted(buckets, key=lambda bucket: bucket[0] * bucket[1])
        if len(styles) > min(width for _, width in buckets):
            raise ValueError("more styles than a row has pixels")
        self.shapes = tuple((height + 1, width, 3) for height, width in self.buckets)
        self.min_side = None  # an image comes back at full resolution, and strength 0 is the image itself
        self._index = {style.name: index for index, style in enumerate(self.styles)}

    def preprocess(self, image: Image, options: StyleOptions | None = None) -> Prepared:
        """Lays one image on a canvas and checks its options.

        Raises:
            StyleUnknown: no style of that name.
            ImageTooLarge: a side above `MAX_SIDE` pixels.
        """
        options = options or StyleOptions()
        index = self._style(options.style)
        if max(image.width, image.height) > MAX_SIDE:
            raise ImageTooLarge(
                f"the image is {image.width} by {image.height} pixels; "
                f"a side of at most {MAX_SIDE} can be stylized"
            )
        height, width = self._bucket(image.height, image.width)
        scale = min(1.0, height / image.height, width / image.width)
        h, w = max(1, round(image.height * scale)), max(1, round(image.width * scale))
        top, left = (height - h) // 2, (width - w) // 2
        tensor = np.zeros((height + 1, width, 3), np.uint8)
        tensor[:height] = cv2.copyMakeBorder(
            resize(image.pixels, h, w), top, height - h - top, left, width - w - left, cv2.BORDER_REFLECT
        )
        tensor[height, index, 0] = 255
        context = StyleContext(image.width, image.height, (top, left, h, w), options.strength)
        return Prepared((tensor,), context)

    def postprocess(
        self, outputs: tuple[NDArray[Any], ...], contexts: Sequence[StyleContext]
    ) -> list[Stylized]:
        """uint8 [N, H, W, 3] -> one image a context, which `render` brings to the original's size."""
        canvases = outputs[0][: len(contexts)]
        return [self._result(canvas, context) for canvas, context in zip(canvases, contexts, strict=True)]

    def _result(self, canvas: Pixels, context: StyleContext) -> Stylized:
        top, left, h, w = context.window
        painted = canvas[top : top + h, left : left + w].copy()  # and the batch's memory is free
        return Stylized(context.width, context.height, painted, context.strength)

    def _style(self, name: str | None) -> int:
        if name is None:
            return 0
        try:
            return self._index[name]
        except KeyError:
            known = ", ".join(self._index)
            raise StyleUnknown(f"no style named {echoed(name)}; there are: {known}") from None

    def _bucket(self, height: int, width: int) -> tuple[int, int]:
        """The smallest canvas that holds an image of this size, or, of the others, loses least of it."""
        return max(self.buckets, key=lambda bucket: min(1.0, bucket[0] / height, bucket[1] / width))
