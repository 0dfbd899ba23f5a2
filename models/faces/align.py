"""From a face in an image to the aligned crop that an embedding network was trained with.

A crop is cut so that the face's landmarks lie as near as a similarity transform (shift, rotation, scale) can
bring them to those of the network's template. dlib (`get_face_chip_details` in
`dlib/image_transforms/interpolation.h`) and ArcFace do the same; here it is done with the five landmarks that
the detector gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from models.faces.result import Face
from models.image import Image, Pixels
from models.pipeline import Template

Floats = NDArray[np.float64]

_WHOLE = 8
"""An image is reduced by up to so much with the mean of all its pixels;"""
_TAPS = 4
"""by more with the mean of so many along each side of a block."""


def similarity(source: Floats, target: Floats) -> Floats:
    """Least-squares similarity transforms that carry `source` to `target`, without reflection.

    Written over the complex plane the transform is ``a z + b`` and the problem is linear, so what Umeyama
    ("Least-squares estimation of transformation parameters between two point patterns", PAMI 1991) solves
    with a singular value decomposition has a closed form: a = sum(conj(z) w) / sum(|z|^2) of the centred
    points.

    Args:
        source: [N, P, 2], P >= 2, not all of a face's points in one place (then its scale is 0).
        target: [P, 2] or [N, P, 2].

    Returns:
        [N, 2, 3]: matrices M with target ~ M @ (x, y, 1).
    """
    target = np.broadcast_to(target, source.shape)
    centre, goal = source.mean(-2, keepdims=True), target.mean(-2, keepdims=True)
    x, y = np.moveaxis(source - centre, -1, 0)
    u, v = np.moveaxis(target - goal, -1, 0)
    energy = np.maximum((x**2 + y**2).sum(-1), np.finfo(np.float64).eps)
    real, imaginary = (x * u + y * v).sum(-1) / energy, (x * v - y * u).sum(-1) / energy
    linear = np.stack((real, -imaginary, imaginary, real), -1).reshape(-1, 2, 2)
    shift = goal.swapaxes(1, 2) - linear @ centre.swapaxes(1, 2)
    return np.concatenate((linear, shift), 2)


def inverse(transforms: Floats) -> Floats:
    """Inverse similarity transforms, [N, 2, 3] -> [N, 2, 3]; one without scale goes to zero."""
    linear, shift = transforms[..., :2], transforms[..., 2:]
    energy = np.maximum((linear[:, 0] ** 2).sum(-1), np.finfo(np.float64).tiny)
    back = linear.swapaxes(1, 2) / energy[:, None, None]
    return np.concatenate((back, -back @ shift), 2)


def chips(pixels: Pixels, landmarks: Floats, template: Template) -> Pixels:
    """Cuts all faces out of an image, upright and of one size.

    What lies outside of the image is black, as dlib has it. Where the image is finer than the chip it is
    reduced by the mean of its pixels first, so nothing aliases; only the part around a face is.

    Args:
        pixels: uint8 [H, W, 3].
        landmarks: [N, 5, 2], (x, y) in pixels of `pixels`, in the order of `Face.landmarks`. Of an image that
            the decoder reduced, the landmarks must be reduced likewise (`cut_faces` does).
        template: of the embedding network.

    Returns:
        uint8 [N, side, side, 3].
    """
    side = template.side
    result = np.zeros((len(landmarks), side, side, 3), np.uint8)
    back = inverse(similarity(np.asarray(landmarks, np.float64), np.array(template.landmarks)))
    hull = back @ np.array([[0.0, side, 0.0, side], [0.0, 0.0, side, side], [1.0, 1.0, 1.0, 1.0]])
    scales = np.hypot(*back[:, :, 0].T)  # image pixels per chip pixel
    bounds = np.concatenate((np.floor(hull.min(2)) - 2, np.ceil(hull.max(2)) + 3), 1)
    boxes = bounds.clip(0, [pixels.shape[1], pixels.shape[0]] * 2).astype(int).tolist()
    for chip, matrix, scale, (x1, y1, x2, y2) in zip(result, back, scales.tolist(), boxes, strict=True):
        if x1 < x2 and y1 < y2:
            _cut(pixels[y1:y2, x1:x2], matrix, (x1, y1), scale, chip)
    return result


def _cut(part: Pixels, back: Floats, origin: tuple[int, int], scale: float, chip: Pixels) -> None:
    """Fills one chip from the part of an image around it; `back`, [2, 3], carries chip to image."""
    factor = max(math.floor(scale), 1)
    reduced = _reduce(part, factor)
    if not reduced.size:
        return
    # what is left to reduce by is less than two, so two samples along each side of a pixel are enough
    samples = 2 if scale > 1 else 1
    side = len(chip) * samples
    # OpenCV counts from the centre of the first pixel, on either side
    linear = back[:, :2] / (factor * samples)
    shift = (back[:, 2] - origin) / factor + linear @ [0.5, 0.5] - 0.5
    sampled = cv2.warpAffine(
        reduced,
        np.column_stack((linear, shift)),
        (side, side),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )
    chip[:] = (
        sampled if samples == 1 else cv2.resize(sampled, chip.shape[1::-1], interpolation=cv2.INTER_AREA)
    )


def _reduce(part: Pixels, factor: int) -> Pixels:
    """uint8 [H, W, 3] -> uint8 [H // factor, W // factor, 3], the mean of each block.

    Of large blocks an even choice of pixels is taken; blocks that are not whole are left out.
    """
    height, width = part.shape[0] // factor, part.shape[1] // factor
    if factor == 1 or not height or not width:
        return part[:height, :width]
    part = part[: height * factor, : width * factor]
    if factor > _WHOLE:
        steps = np.round(np.arange(_TAPS) * (factor - 1) / (_TAPS - 1)).astype(int)
        for axis, count in enumerate((height, width)):
            part = part.take((np.arange(count)[:, None] * factor + steps).ravel(), axis)
    reduced: Pixels = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    return reduced


def cut_faces(image: Image, faces: Sequence[Face], template: Template) -> list[Image]:
    """The crops of an image's faces, in their order, as the embedding pipeline's `preprocess` takes them."""
    if not faces:
        return []
    height, width = image.pixels.shape[:2]
    # the decoder may have reduced the image, the landmarks are those of the original
    landmarks = np.array([face.landmarks for face in faces]) * [width / image.width, height / image.height]
    return [Image(chip, template.side, template.side) for chip in chips(image.pixels, landmarks, template)]
