"""A contact sheet: pictures in all the styles of a network, a picture a row, the picture itself first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from models.image import Image, Pixels, resize
from models.pipeline import Card, Task
from models.style.pipeline import StylePipeline
from models.style.result import StyleOptions
from models.style.transfer import StyleNetwork, Stylist


def sheet(network: StyleNetwork, pictures: Sequence[Pixels], longest: int) -> Pixels:
    """Paints as the service does, bytes in and bytes out.

    Args:
        network: in eval mode.
        pictures: uint8 [h, w, 3] each.
        longest: side of a cell, pixels; the pictures are scaled to it.

    Returns:
        uint8 [rows * longest, (1 + styles) * longest, 3].
    """
    side = -(-longest // 4) * 4
    card = Card("sheet", Task.STYLE, "", "")
    pipeline = StylePipeline(card, Stylist(network), network.config.styles, buckets=[(side, side)])
    rows = []
    for pixels in pictures:
        scale = longest / max(pixels.shape[:2])
        height, width = (max(1, round(edge * scale)) for edge in pixels.shape[:2])
        picture = resize(pixels, height, width)
        cells = [picture]
        for style in network.config.styles:
            item = pipeline.preprocess(Image(picture, width, height), StyleOptions(style.name))
            with torch.inference_mode():
                outputs = pipeline.module(torch.from_numpy(item.tensor)[None])
            cells.append(pipeline.postprocess((outputs,), [item.context])[0].pixels)
        rows.append(np.concatenate([_centred(cell, longest) for cell in cells], axis=1))
    return np.concatenate(rows)


def _centred(pixels: Pixels, side: int) -> Pixels:
    cell = np.full((side, side, 3), 255, np.uint8)
    height, width = pixels.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    cell[top : top + height, left : left + width] = pixels
    return cell
