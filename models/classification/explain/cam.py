"""Grad-CAM heat maps.

Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization" (ICCV 2017, https://arxiv.org/abs/1610.02391), equations 1 and 2.

A network is observed through a function mode, which is local to the calling thread; the module has no
hooks, so that others may run it at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.classification.explain.activations import classifier_of
from models.classification.explain.maps import HeatMap, find_label
from models.classification.pipeline import ClassifierPipeline
from models.errors import ParameterInvalid
from models.image import Image


def grad_cam(pipeline: ClassifierPipeline, image: Image, label: str | None = None) -> HeatMap:
    """The heat map of one label on one image.

    Args:
        pipeline: a classifier with convolutions.
        image: the decoded image.
        label: a name of the card's labels, or an index in digits (for names that stand twice); None explains
            the likeliest class.

    Raises:
        ParameterInvalid: no such label, an exported graph, or no convolutional map (a transformer).
    """
    module = classifier_of(pipeline)
    prepared = pipeline.preprocess(image)
    index = None if label is None else find_label(pipeline.card, label)
    with torch.inference_mode(False), torch.enable_grad():
        batch = torch.from_numpy(prepared.inputs[0])[None].to(module.mean.device)
        # the weights need no gradient: the graph begins here
        inputs = module.normalise(batch).requires_grad_()
        with _LastMap() as watch:
            logits = module.network(inputs)[0]
        if watch.features is None:
            raise ParameterInvalid("model", f"the model {pipeline.card.name!r} has no convolutional map")
        if index is None:
            index = int(logits.argmax())
        (gradient,) = torch.autograd.grad(logits[index], watch.features)
    features = watch.features.detach()[0].float()
    weights = gradient[0].float().mean((1, 2))  # equation 1: the weight of each map
    heat = torch.einsum("c,chw->hw", weights, features).relu()  # equation 2
    grid = (heat / heat.max().clamp(min=torch.finfo(torch.float32).tiny)).cpu().numpy()
    region = pipeline.region(image)
    score = float(logits.detach().float().softmax(0)[index])
    return HeatMap(index, pipeline.card.labels[index], score, grid, region, image.width, image.height)


class _LastMap(TorchFunctionMode):
    """Keeps the feature map of the last convolution, after whatever follows it at the same resolution.

    Those are its norm, its activation, the sum with a shortcut, the concatenation with other branches. A
    convolution whose output is a single pixel (a fully connected layer, squeeze and excitation) is none. One
    convolution alone is a transformer's patch embedding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = 0
        self._features: Tensor | None = None

    @property
    def features(self) -> Tensor | None:
        """Tensor[1, C, gh, gw], or None when there was no such map."""
        return self._features if self.convolutions > 1 else None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dim() == 4 and result.requires_grad:
            if func is torch.conv2d:
                if result.shape[2:].numel() > 1:
                    self.convolutions += 1
                    self._features = result
            elif self._features is not None and result.shape[2:] == self._features.shape[2:]:
                self._features = result
        return result
