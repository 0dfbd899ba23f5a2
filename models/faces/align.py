"""From a face in an image to the aligned crop that an embedding network was trained with.

A crop is cut so that the face's landmarks lie as near as a similarity transform (shift, rotation, scale) can
bring them to those of the network's template. dlib (`get_face_chip_details` in
`dlib/image_transforms/interpolation.h`) and ArcFace do the same; here it is done with the five landmarks that
the detector gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.faces.result import Face
from models.image import Image
from models.pipeline import Template

_TAPS = 4
"""A pixel of a reduced image is the mean of at most so many pixels along each side."""


def similarity(source: Tensor, target: Tensor) -> Tensor:
    """Least-squares similarity transforms that carry `source` to `target`, without reflection.

    Written over the complex plane the transform is ``a z + b`` and the problem is linear, so what Umeyama
    ("Least-squares estimation of transformation parameters between two point patterns", PAMI 1991) solves
    with a singular value decomposition has a closed form: a = sum(conj(z) w) / sum(|z|^2) of the centred
    points.

    Args:
        source: float Tensor[N, P, 2], P >= 2, not all of a face's points in one place (then its scale is 0).
        target: float Tensor[P, 2] or Tensor[N, P, 2].

    Returns:
        float Tensor[N, 2, 3]: matrices M with target ~ M @ (x, y, 1).
    """
    target = target.expand_as(source)
    centre, goal = source.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    x, y = (source - centre).unbind(-1)
    u, v = (target - goal).unbind(-1)
    energy = (x.square() + y.square()).sum(-1).clamp(min=torch.finfo(source.dtype).eps)
    real, imaginary = (x * u + y * v).sum(-1) / energy, (x * v - y * u).sum(-1) / energy
    linear = torch.stack((real, -imaginary, imaginary, real), dim=-1).view(-1, 2, 2)
    shift = goal[:, 0] - (linear @ centre.transpose(1, 2))[..., 0]
    return torch.cat((linear, shift[..., None]), dim=2)


def inverse(transforms: Tensor) -> Tensor:
    """Inverse similarity transforms, Tensor[N, 2, 3] -> Tensor[N, 2, 3]; one without scale goes to zero."""
    linear, shift = transforms[..., :2], transforms[..., 2:]
    energy = linear[:, 0].square().sum(-1).clamp(min=torch.finfo(transforms.dtype).tiny)
    back = linear.transpose(1, 2) / energy[:, None, None]
    return torch.cat((back, -back @ shift), dim=2)


def chips(pixels: Tensor, landmarks: Tensor, template: Template) -> Tensor:
    """Cuts all faces out of an image, upright and of one size.

    What lies outside of the image is black, as dlib has it. Where the image is finer than the chip it is
    reduced by the mean of its pixels first, so nothing aliases. Only the part around a face becomes float,
    and only once reduced, so that an image of fifty million pixels costs no more than a small one.

    Args:
        pixels: uint8 Tensor[H, W, 3].
        landmarks: float Tensor[N, 5, 2], (x, y) in pixels of `pixels`, in the order of `Face.landmarks`. Of a
            image that the decoder reduced, the landmarks must be reduced likewise (`cut_faces` does).
        template: of the embedding network.

    Returns:
        uint8 Tensor[N, side, side, 3] on the device of `pixels`.
    """
    side = template.side
    result = torch.zeros(len(landmarks), side, side, 3, dtype=torch.uint8, device=pixels.device)
    # in float64, and beside the image: a handful of numbers, whose values choose what is cut
    points = landmarks.detach().to("cpu", torch.float64)
    back = inverse(similarity(points, torch.tensor(template.landmarks, dtype=torch.float64)))
    corners = torch.tensor(
        [[0.0, side, 0.0, side], [0.0, 0.0, side, side], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64
    )
    hull = back @ corners
    scales = back[:, :, 0].square().sum(-1).sqrt()  # image pixels per chip pixel
    bounds = torch.cat((hull.amin(2).floor() - 2, hull.amax(2).ceil() + 3), dim=1)
    limit = torch.tensor([pixels.shape[1], pixels.shape[0]] * 2)
    boxes = torch.minimum(bounds.clamp(min=0), limit).long().tolist()
    for index, ((x1, y1, x2, y2), scale) in enumerate(zip(boxes, scales.tolist(), strict=True)):
        if x1 < x2 and y1 < y2:
            result[index] = _cut(pixels[y1:y2, x1:x2], back[index], (x1, y1), scale, side)
    return result


def _cut(part: Tensor, back: Tensor, origin: tuple[int, int], scale: float, side: int) -> Tensor:
    """One chip from the part of an image around it; `back`, Tensor[2, 3], carries chip to image."""
    factor = max(int(scale), 1)
    reduced = _reduce(part, factor)
    extent = torch.tensor([reduced.shape[3], reduced.shape[2]], dtype=back.dtype) * factor
    if not extent.all():
        return torch.zeros(side, side, 3, dtype=torch.uint8, device=part.device)
    # both spaces as grid_sample has them: from -1 to 1 between the outer edges
    linear, centre = back[:, :2] * side / 2, back @ torch.tensor([side / 2, side / 2, 1.0], dtype=back.dtype)
    centre = centre - torch.tensor(origin, dtype=back.dtype)
    theta = torch.cat((linear, centre[:, None] - extent[:, None] / 2), dim=1) / (extent[:, None] / 2)
    # what is left to reduce by is less than two, so two samples along each side of a pixel are enough
    samples = 2 if scale > 1 else 1
    grid = F.affine_grid(theta[None].to(reduced), [1, 3, side * samples, side * samples], align_corners=False)
    sampled = F.grid_sample(reduced, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if samples > 1:
        sampled = F.avg_pool2d(sampled, samples)
    return sampled[0].round_().to(torch.uint8).permute(1, 2, 0)


def _reduce(part: Tensor, factor: int) -> Tensor:
    """uint8 Tensor[H, W, 3] -> float32 Tensor[1, 3, H // factor, W // factor], the mean of each block.

    Of large blocks an even choice of pixels is taken; blocks that are not whole are left out.
    """
    height, width = part.shape[0] // factor * factor, part.shape[1] // factor * factor
    steps = [
        round(step * (factor - 1) / max(min(factor, _TAPS) - 1, 1)) for step in range(min(factor, _TAPS))
    ]
    total = torch.zeros(height // factor, width // factor, 3, device=part.device)
    for dy in steps:
        for dx in steps:
            total += part[dy:height:factor, dx:width:factor]
    return total.div_(len(steps) ** 2).permute(2, 0, 1)[None].contiguous()


def cut_faces(image: Image, faces: Sequence[Face], template: Template) -> list[Image]:
    """The crops of an image's faces, in their order, as the embedding pipeline's `preprocess` takes them."""
    if not faces:
        return []
    height, width = image.pixels.shape[:2]
    # the decoder may have reduced the image, the landmarks are those of the original
    shrink = torch.tensor([width / image.width, height / image.height], dtype=torch.float64)
    landmarks = torch.tensor([face.landmarks for face in faces], dtype=torch.float64) * shrink
    pixels = torch.from_numpy(np.require(image.pixels, np.uint8, ["C", "W"]))
    return [Image(chip, template.side, template.side) for chip in chips(pixels, landmarks, template).numpy()]
