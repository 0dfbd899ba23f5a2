"""dlib's crop of a face: what `models.faces.dlib_resnet` takes."""

from __future__ import annotations

import numpy as np

from models.pipeline import Template

SIDE = 150
"""Side of the crop that the network takes, pixels (see `models.faces.align`)."""

PADDING = 0.25
"""Room around the mean face on each side, in units of the face: what the network was trained with."""

_LEFT_EYE = (0.121737, 0.187122, 0.265825, 0.334606, 0.260918, 0.182743)  # x of the points 36 to 41
_RIGHT_EYE = (0.645647, 0.714428, 0.793132, 0.858516, 0.797510, 0.719335)  # 42 to 47
_EYES_Y = (0.216423, 0.178758, 0.179852, 0.231733, 0.245099, 0.244077)  # of either eye
MEAN_FACE = (
    (sum(_LEFT_EYE) / 6, sum(_EYES_Y) / 6),
    (sum(_RIGHT_EYE) / 6, sum(_EYES_Y) / 6),
    (0.490127, 0.515625),  # tip of the nose: point 30
    (0.254149, 0.780233),  # left corner of the mouth: point 48
    (0.726104, 0.780233),  # right corner: point 54
)
"""dlib's mean of the 68-point annotation, in a unit square that reaches from the brows to the chin."""


def template(side: int = SIDE, padding: float = PADDING) -> Template:
    """dlib's crop: the mean face with padding around it (`get_face_chip_details` in dlib's
    `image_transforms/interpolation.h`)."""
    points = (np.array(MEAN_FACE, np.float32) + np.float32(padding)) / np.float32(2 * padding + 1)
    # dlib counts from the centre of the first pixel, this project from its corner
    points = points * np.float32(side) + np.float32(0.5)
    return Template(side, tuple((x, y) for x, y in points.tolist()))


TEMPLATE = template()
