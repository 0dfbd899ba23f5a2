"""A detector small enough to be trained in a test, and pictures for it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from models.detection.yolo_config import YoloConfig

ANCHORS = (
    ((6.0, 6.0), (9.0, 9.0), (13.0, 13.0)),
    ((20.0, 20.0), (26.0, 26.0), (34.0, 34.0)),
    ((44.0, 44.0), (56.0, 56.0), (70.0, 70.0)),
)
CONFIG = YoloConfig(("square",), ANCHORS, size=64, channels=16)


def draw_squares(root: Path) -> Path:
    """Draws bright squares on dark noise, one or two a picture, never overlapping, and returns `root`."""
    (root / "images").mkdir()
    (root / "labels").mkdir()
    random = np.random.default_rng(0)
    for index in range(36):
        pixels = random.integers(0, 60, (64, 80, 3), dtype=np.uint8)
        lines = []
        for left in (0, 40)[: 1 + index % 2]:
            side = int(random.integers(14, 34))
            x, y = left + int(random.integers(0, 40 - side)), int(random.integers(0, 64 - side))
            pixels[y : y + side, x : x + side] = (250, 240, 90)
            lines.append(f"0 {(x + side / 2) / 80} {(y + side / 2) / 64} {side / 80} {side / 64}\n")
        cv2.imwrite(str(root / "images" / f"square{index}.png"), pixels[:, :, ::-1])
        (root / "labels" / f"square{index}.txt").write_text("".join(lines))
    return root
