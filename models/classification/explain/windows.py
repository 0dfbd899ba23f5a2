"""Sliding windows in one forward pass: a classifier read as a fully convolutional network.

Sermanet, Eigen, Zhang, Mathieu, Fergus and LeCun, "OverFeat: Integrated Recognition, Localization and
Detection using Convolutional Networks" (ICLR 2014, https://arxiv.org/abs/1312.6229), section 3.5, figure 5:
on a larger image the trunk gives a larger feature map, and the head, its linear layers read as
convolutions, gives the scores of every window at the trunk's stride.

Equivalence: the score at a place of the map is the network's answer for the window of its input's size
there. A trunk without padding (LeNet-5) sees nothing else, so a crop of the window, run alone, gives the same
number. A trunk that pads has zeros around a crop where the window in the image has neighbours, and no
single pass can give both, as its receptive field (EfficientNet-Lite0: 851 pixels) is larger than the window.
For such a trunk the score equals that of a crop of the window with all that its features see around it, up to
the edge of the image, of which the window's own features are pooled; and for a window as large as the
image it equals the plain classifier. A crop without its surroundings gives another number, mostly of the
same rank: on real images the logarithms of the two correlate by 0.8 to 0.95.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VGG, AlexNet, DenseNet, GoogLeNet, Inception3, MobileNetV2, ResNet

from models.boxes import batched_nms
from models.classification.classifier import Classifier
from models.classification.digits import light_ink
from models.classification.efficientnet import EfficientNetLite
from models.classification.explain.cam import grad_cam
from models.classification.explain.maps import WindowMap, find_label
from models.classification.lenet import LeNet5
from models.classification.pipeline import ClassifierPipeline
from models.detection.result import Detection
from models.errors import ParameterInvalid
from models.image import Image, resize

MAX_PIXELS = 1_250_000
"""Of a canvas. EfficientNet-Lite0 takes 0.55 to 0.9 s and 190 to 290 MB a megapixel."""


OVERLAP = 0.3
"""Of two boxes with a larger IoU, the better stays."""


class LinearAsConvolution(nn.Module):
    """A linear layer over a flattened window of `grid` x `grid` features, slid over a larger feature map."""

    def __init__(self, linear: nn.Linear, grid: int) -> None:
        super().__init__()
        self.linear, self.grid = linear, grid

    def forward(self, features: Tensor) -> Tensor:
        """Tensor[N, C, h, w] -> Tensor[N, outputs, h - grid + 1, w - grid + 1]."""
        kernel = self.linear.weight.unflatten(1, (-1, self.grid, self.grid))
        return F.conv2d(features, kernel, self.linear.bias)


class Sliding(nn.Module):
    """A classifier over all windows of its input; shares the classifier's parameters.

    Args:
        module: a `Classifier` of a network without global pooling inside its trunk: LeNet-5,
            EfficientNet-Lite0, or torchvision's AlexNet, VGG, ResNet (ResNeXt, Wide ResNet), DenseNet,
            MobileNetV2, GoogLeNet, Inception v3.
        size: side of a window, the network's input.

    Attributes:
        stride: pixels between neighbouring windows.
        grid: side of a window in the trunk's features.

    Raises:
        ValueError: the network cannot be slid.
    """

    def __init__(self, module: Classifier, size: int) -> None:
        super().__init__()
        self.module, self.size = module, size
        self.trunk, head = _halves(module.network)
        with torch.inference_mode():
            probe = torch.zeros(1, 3, size, size, dtype=module.mean.dtype, device=module.mean.device)
            self.grid, grown = self._grid(probe), self._grid(F.pad(probe, (0, 256, 0, 256)))
        self.stride = 256 // (grown - self.grid)
        layers: list[nn.Module] = []
        for layer in head:
            match layer:
                case nn.AdaptiveAvgPool2d() if layer.output_size in (1, (1, 1)):
                    layers.append(nn.AvgPool2d(self.grid, stride=1))
                case nn.AdaptiveAvgPool2d() | nn.Flatten():
                    pass  # to the window's own size: AlexNet and VGG
                case nn.Linear():
                    first = not any(isinstance(made, nn.AvgPool2d | LinearAsConvolution) for made in layers)
                    layers.append(LinearAsConvolution(layer, self.grid if first else 1))
                case _:
                    layers.append(layer)
        self.head = nn.Sequential(*layers)

    def _grid(self, inputs: Tensor) -> int:
        return int(self.trunk(inputs).shape[-1])

    def forward(self, images: Tensor) -> Tensor:
        """uint8 Tensor[N, H, W, 3] -> probabilities Tensor[N, classes, gh, gw] of all its windows.

        H and W are `size` plus multiples of `stride`; then gh is (H - size) / stride + 1, and gw likewise.
        """
        logits: Tensor = self.head(self.trunk(self.module.normalise(images)))
        return logits.softmax(dim=1)


def _halves(network: nn.Module) -> tuple[Callable[[Tensor], Tensor], Iterable[nn.Module]]:
    """The trunk, float Tensor[N, 3, H, W] -> features, and the head's layers."""
    children = dict(network.named_children())
    match network:
        case LeNet5():
            return lambda inputs: network.features(network.levels(inputs)), network.classify
        case EfficientNetLite():
            return network.trunk, (nn.AdaptiveAvgPool2d(1), network.classify)
        case AlexNet() | VGG():
            return network.features, (network.avgpool, *network.classifier)
        case MobileNetV2():
            return network.features, (nn.AdaptiveAvgPool2d(1), *network.classifier)
        case DenseNet():
            return nn.Sequential(network.features, nn.ReLU()), (nn.AdaptiveAvgPool2d(1), network.classifier)
        case ResNet() | GoogLeNet() | Inception3():
            body = nn.Sequential(*list(children.values())[: list(children).index("avgpool")])
            if isinstance(network, ResNet):
                return body, (network.avgpool, network.fc)
            return lambda inputs: body(network._transform_input(inputs)), (network.avgpool, network.fc)
    raise ValueError(f"a {type(network).__name__} cannot be slid over an image")


@lru_cache(maxsize=8)  # building one runs the trunk twice; a module hashes by identity
def sliding(module: Classifier, size: int) -> Sliding:
    """The module's `Sliding`, made once."""
    return Sliding(module, size)


def _too_many() -> ParameterInvalid:
    return ParameterInvalid("fraction", "so small windows are too many for this image; try a larger fraction")


def windows(
    pipeline: ClassifierPipeline,
    image: Image,
    label: str | None = None,
    *,
    fraction: float = 0.5,
    score_threshold: float = 0.2,
) -> WindowMap:
    """Where in an image a label's windows are: a classifier used as a detector of one size.

    Args:
        pipeline: a classifier that can be slid (see `Sliding`).
        image: the decoded image.
        label: a name of the card's labels, or an index in digits; None: the likeliest class.
        fraction: a window's side as a share of the image's shorter side, 0 < fraction <= 1.
        score_threshold: least probability of a box.

    Raises:
        ParameterInvalid: a parameter out of its range, an unknown label, a network that cannot be slid, or
            more windows than one call may have.
    """
    if not 0 < fraction <= 1:
        raise ParameterInvalid("fraction", "fraction must be over 0 and at most 1")
    index = grad_cam(pipeline, image).index if label is None else find_label(pipeline.card, label)
    module = pipeline.module
    if not isinstance(module, Classifier) or pipeline.card.input is None:
        raise ParameterInvalid("model", f"the model {pipeline.card.name!r} cannot be slid over an image")
    try:
        slid = sliding(module, pipeline.card.input[0])
    except ValueError as error:
        raise ParameterInvalid("model", str(error)) from error

    # The canvas is the image in whole strides.
    scale = slid.size / (fraction * min(image.width, image.height))  # infinite for the smallest fractions
    if not image.width * scale * image.height * scale < 2 * MAX_PIXELS:
        raise _too_many()
    height, width = (
        slid.size + slid.stride * max(0, round((side * scale - slid.size) / slid.stride))
        for side in (image.height, image.width)
    )
    if height * width > MAX_PIXELS:
        raise _too_many()
    pixels = light_ink(image.pixels) if isinstance(module.network, LeNet5) else image.pixels
    canvas = torch.from_numpy(resize(pixels, height, width)[None].copy()).to(module.mean.device)
    with torch.inference_mode():
        scores = slid(canvas)[0, index].float().cpu().numpy().copy()  # and the other labels' are free

    unit = image.width / width, image.height / height
    y, x = (scores >= score_threshold).nonzero()
    found = scores[y, x]
    boxes = (np.stack([x, y, x, y], 1) * slid.stride + np.array([0, 0, slid.size, slid.size])) * np.array(
        [*unit, *unit]
    )
    kept = batched_nms(boxes, found, np.zeros(len(found), np.int64), OVERLAP)
    name = pipeline.card.labels[index]
    return WindowMap(
        index,
        name,
        scores,
        (slid.stride * unit[0], slid.stride * unit[1]),
        (slid.size * unit[0], slid.size * unit[1]),
        tuple(
            Detection(index, name, score, (box[0], box[1], box[2], box[3]))
            for score, box in zip(found[kept].tolist(), boxes[kept].tolist(), strict=True)
        ),
        score_threshold,
    )
