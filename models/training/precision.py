"""The arithmetic that trains quickest on this machine's CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def bfloat16_is_fast() -> bool:
    """Whether the CPU multiplies bfloat16 itself (AVX512-BF16 or AMX).

    Without that oneDNN emulates it: a step of the style network took ten times as long as in float32.
    """
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast() -> torch.autocast:
    """Bfloat16 where it is quick, float32 elsewhere; batches weigh the same in both."""
    # no cache of weights: each is used once, and threads would share it
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16_is_fast(), cache_enabled=False)


class Float32Conv2d(nn.Conv2d):
    """A convolution that autocast does not change."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def spare_strided(network: nn.Module) -> None:
    """Leaves strided depthwise convolutions in float32: their bfloat16 gradients are slow in oneDNN."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.stride[0] > 1:
            module.__class__ = Float32Conv2d  # the same parameters under the same names
