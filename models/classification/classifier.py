"""What all classifiers' networks are wrapped in: normalise, network, softmax."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """A network with its normalisation before it and a softmax behind it.

    Args:
        network: float Tensor[N, 3, H, W] -> logits Tensor[N, C].
        mean: per channel (RGB), or one for all, in units of the byte, 0..255.
        scale: what is divided by after the mean is taken away, in the same units.

    Attributes:
        features: D, length of the vector that the last layer takes; None without such a layer.
    """

    whole = ("mean", "scale")
    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], scale: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.features: int | None = None
        self._kept = threading.local()  # batches of several threads may be under way
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        if layers:
            last = layers[-1]
            self.features = last.in_features if isinstance(last, nn.Linear) else last.in_channels
            last.register_forward_pre_hook(self._keep)
        self.register_buffer(
            "mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False
        )
        self.register_buffer(
            "scale", torch.tensor(scale, dtype=torch.float32).view(1, -1, 1, 1), persistent=False
        )

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 Tensor[N, H, W, 3], RGB -> float Tensor[N, 3, H, W] as the network was trained with."""
        return (images.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.scale

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 Tensor[N, H, W, 3], RGB -> probabilities Tensor[N, C] that sum to one, features Tensor[N, D].

        The features are what the last layer takes, a linear one or a convolution; other networks have none.
        """
        kept = self._kept.__dict__
        kept["features"] = None
        like = next(self.network.parameters(), self.mean)
        logits: Tensor = self.network(self.normalise(images).to(like.dtype))
        features = kept.pop("features")
        probabilities = logits.float().softmax(dim=1)
        return (probabilities,) if features is None else (probabilities, features.float())

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept = self._kept.__dict__
        if "features" in kept:  # else the network is not called by `forward`
            features = inputs[0]  # of a convolution a map: its mean over the places
            kept["features"] = features if features.dim() == 2 else features.mean((2, 3))
