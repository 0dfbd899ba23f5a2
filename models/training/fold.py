"""Batch norms that keep their statistics, folded into their convolutions for a quicker training, and back."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.backbones.efficientnet_lite import ConvNorm
from models.detection.yolo import Yolo


def fold(backbone: nn.Module) -> None:
    """Moves every batch norm of a backbone (in eval mode) into the convolution before it, in place.

    The network stays the same function. Kept statistics make a batch norm a scale and a shift, which cost a
    quarter of a training step on a CPU and learn nothing that the convolution could not.
    """
    for module in backbone.modules():
        if isinstance(module, ConvNorm):
            fused = fuse_conv_bn_eval(module.conv.eval(), module.norm.eval())
            module.conv.weight, module.conv.bias = fused.weight, fused.bias
            module.register_module("norm", nn.Identity())


def unfolded(network: Yolo) -> Yolo:
    """A network of the usual structure that is the same function as one with a folded backbone; in eval mode.

    Its batch norms only add: weight 1, mean 0 and a variance that makes the divisor 1.
    """
    plain = Yolo(network.config)
    state = network.state_dict()
    for name, module in plain.backbone.named_modules(prefix="backbone"):
        if isinstance(module, ConvNorm):
            bias = state.pop(f"{name}.conv.bias")
            state[f"{name}.norm.weight"] = torch.ones_like(bias)
            state[f"{name}.norm.bias"] = bias
            state[f"{name}.norm.running_mean"] = torch.zeros_like(bias)
            state[f"{name}.norm.running_var"] = torch.full_like(bias, 1 - module.norm.eps)
            state[f"{name}.norm.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    plain.load_state_dict(state)
    return plain.eval()
