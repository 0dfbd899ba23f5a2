"""Conditional instance norm for training on a CPU: the same function, a quarter of the time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.style.transfer import EPS, ConditionalNorm

PARTS = 64  # of a sum over an image


class _Normalise(torch.autograd.Function):
    """Instance norm, scale and shift on channels-last maps; all sums over the image are matrix products.

    The library's own norms leave channels last or bfloat16 (and come back), and sum slowly over the dimension
    in the middle: 13 ms forth and back where this takes 3, for 64 channels of 64 x 64, four images.
    """

    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx, inputs: Tensor, scale: Tensor, shift: Tensor
    ) -> Tensor:
        flat = _flat(inputs)
        mean = _sums(flat) / flat.shape[1]
        variance = (_sums(flat * flat) / flat.shape[1] - mean.square()).clamp_min(0)
        rsqrt = torch.rsqrt(variance + EPS)
        gain = scale[:, None] * rsqrt
        offset = shift[:, None] - mean * gain
        context.save_for_backward(flat, mean, rsqrt, scale)
        outputs = torch.addcmul(offset.to(flat.dtype), flat, gain.to(flat.dtype))
        return _unflat(outputs, inputs)

    @staticmethod
    def backward(
        context: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        flat, mean, rsqrt, scale = context.saved_tensors  # type: ignore[attr-defined]
        upper = _flat(gradient)
        total = _sums(upper)
        for_scale = (_sums(upper * flat) - mean * total) * rsqrt
        # dx = gain * (dy - mean(dy) - normal * mean(dy * normal)), sorted by dy, x and neither
        gain = scale[:, None] * rsqrt
        by_input = -gain * rsqrt * for_scale / flat.shape[1]
        offset = -gain * total / flat.shape[1] - by_input * mean
        result = torch.addcmul(offset.to(flat.dtype), upper, gain.to(flat.dtype))
        result.addcmul_(flat, by_input.to(flat.dtype))
        return _unflat(result, gradient), for_scale[:, 0], total[:, 0]


def _flat(maps: Tensor) -> Tensor:
    """Tensor[N, C, H, W] -> Tensor[N, H * W, C], contiguous, and no copy where it was channels last."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2).contiguous()


def _unflat(flat: Tensor, like: Tensor) -> Tensor:
    count, channels, height, width = like.shape
    return flat.view(count, height, width, channels).permute(0, 3, 1, 2)


def _sums(flat: Tensor) -> Tensor:
    """Tensor[N, L, C] -> float Tensor[N, 1, C].

    A product comes out in bfloat16, so a long sum is made of parts, and these are added in float32.
    """
    count, length, channels = flat.shape
    parts = math.gcd(length, PARTS)
    pieces = flat.view(count * parts, length // parts, channels)
    sums = flat.new_ones((count * parts, 1, length // parts)) @ pieces
    return sums.view(count, parts, channels).sum(dim=1, keepdim=True, dtype=torch.float32)


class QuickNorm(ConditionalNorm):
    """`ConditionalNorm` by `_Normalise`."""

    def forward(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """See `ConditionalNorm.forward`; the sums are rounded to the precision of `inputs`."""
        with torch.autocast(inputs.device.type, enabled=False):
            result: Tensor = _Normalise.apply(inputs, scale.float(), shift.float())
            return result


def hasten(network: nn.Module) -> None:
    """Puts the quick norms in the place of the plain ones."""
    for module in network.modules():
        if type(module) is ConditionalNorm:
            module.__class__ = QuickNorm
