"""LeNet-5: handwritten digits.

LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition" (Proceedings of
the IEEE 86, 1998), figure 2 and section II.B. As usual today, C3 sees all maps of S2, and the output is
linear with a softmax in place of the radial basis functions. The initialisation is that of Glorot and Bengio,
"Understanding the difficulty of training deep feedforward neural networks" (AISTATS 2010), equation 16.

C5, F6 and the output are convolutions, as in the paper's figure 2 and section VII ("space displacement
neural network"): on a larger image the same weights give a map of scores, one for every window of 32 x 32
pixels at a stride of 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from torch import Tensor, nn

from models.checkpoint import load_state, read_state
from models.classification.pipeline import Classifier, ClassifierPipeline
from models.image import Image, Pixels, resize
from models.options import NoOptions, read_options
from models.pipeline import Kind

if TYPE_CHECKING:
    from models.weights import Entry

SIZE = 32  # the paper's input: MNIST's images of 28 x 28 with two more pixels of ground on every side
MNIST = 28
DIGIT = 20  # the box of the digit itself, its centre of mass in the middle of the image
LABELS = tuple("0123456789")
# The paper's levels (section II.B), which make the mean about 0 and the variance about 1.
BACKGROUND, INK = -0.1, 1.175


class LeNet5(nn.Module):
    """float Tensor[N, 3, 32, 32], RGB, 0..1, light ink on black -> logits Tensor[N, 10].

    `features` and `classify` are the two halves: the feature maps, and the layers that see all of a window.
    Nothing pads, so on a larger image their map holds exactly the logits of its windows.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5),  # C1: 28 x 28
            nn.Tanh(),
            nn.AvgPool2d(2),  # S2: 14 x 14
            nn.Conv2d(6, 16, 5),  # C3: 10 x 10
            nn.Tanh(),
            nn.AvgPool2d(2),  # S4: 5 x 5
        )
        self.classify = nn.Sequential(
            nn.Conv2d(16, 120, 5),  # C5: 1 x 1
            nn.Tanh(),
            nn.Conv2d(120, 84, 1),  # F6
            nn.Tanh(),
            nn.Conv2d(84, classes, 1),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def levels(self, images: Tensor) -> Tensor:
        """float Tensor[N, 3, H, W], RGB, 0..1 -> grey Tensor[N, 1, H, W] in the paper's levels."""
        red, green, blue = images.unbind(1)
        grey = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]  # ITU-R BT.601, as PIL's mode "L"
        return grey * (INK - BACKGROUND) + BACKGROUND

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.features(self.levels(images)))
        return logits.flatten(1)


def digit_crop(image: Image) -> Pixels:
    """Any image of one digit -> uint8 [32, 32, 3], light ink on black, placed as in MNIST."""
    return place(image)[0]


def place(image: Image) -> tuple[Pixels, tuple[float, float, float, float]]:
    """See `digit_crop`; also gives what the 32 x 32 pixels show, xyxy in pixels of the upright original.

    An image with a bright border (its median over 127) is taken for ink on paper and inverted. One of
    28 x 28 or 32 x 32 is then used as it is. Of any other the ink is segmented, its bounding box is
    scaled to 20 pixels and its centre of mass is moved to the middle.
    """
    grey = light_ink(cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY))
    height, width = grey.shape
    if (height, width) in ((MNIST, MNIST), (SIZE, SIZE)):
        left, top, scale = 0.0, 0.0, 1.0
        digit, x, y = grey, (SIZE - width) // 2, (SIZE - height) // 2
    else:
        digit, left, top, scale = _boxed(grey)
        moments = cv2.moments(digit)
        mass = max(moments["m00"], 1.0)
        x = min(max(round(SIZE / 2 - moments["m10"] / mass - 0.5), 0), SIZE - digit.shape[1])
        y = min(max(round(SIZE / 2 - moments["m01"] / mass - 0.5), 0), SIZE - digit.shape[0])
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    canvas[y : y + digit.shape[0], x : x + digit.shape[1]] = digit
    stretch_x, stretch_y = image.width / width, image.height / height  # of an image that the decoder reduced
    shown = (
        (left - x / scale) * stretch_x,
        (top - y / scale) * stretch_y,
        (left + (SIZE - x) / scale) * stretch_x,
        (top + (SIZE - y) / scale) * stretch_y,
    )
    return np.repeat(canvas[..., None], 3, axis=2), shown


def light_ink(pixels: Pixels) -> Pixels:
    """uint8 [h, w] or [h, w, 3] -> the same, inverted when its border is bright: dark ink on paper."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return 255 - pixels if np.median(border) > 127 else pixels


def _boxed(grey: Pixels) -> tuple[Pixels, float, float, float]:
    """Light ink on darker ground -> the digit in its box of 20 pixels, the box's corner, and its scale."""
    smaller = min(1.0, 8 * SIZE / max(grey.shape))  # the box is found without the grain of the paper
    height, width = (max(1, round(side * smaller)) for side in grey.shape)
    grey = _resized(grey, height, width)
    # What is wider than a stroke can be is the paper with its shades: the top-hat transform takes it away.
    blurred = cv2.GaussianBlur(grey, (5, 5), 0)
    wide = cv2.getStructuringElement(cv2.MORPH_RECT, (max(height, width) // 3 | 1,) * 2)
    ground = cv2.morphologyEx(blurred, cv2.MORPH_OPEN, wide)
    grey, blurred = cv2.subtract(grey, ground), cv2.subtract(blurred, ground)
    _, mask = cv2.threshold(blurred, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    mask = _without_specks(mask)
    if mask.any() and not mask.all():
        # The paper's shade and grain go to black, the ink to white, and the edge between them stays soft.
        paper, ink = grey[mask == 0], grey[mask == 1]
        floor, ceiling = float(paper.mean() + 2 * paper.std()), float(np.median(ink))
        grey = np.clip((grey - floor) * (255 / max(ceiling - floor, 1.0)), 0, 255).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(mask)
    else:
        left, top = 0, 0
    scale = DIGIT / max(width, height)
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    digit = _resized(grey[top : top + height, left : left + width], *inner)
    return digit, left / smaller, top / smaller, scale * smaller


def _without_specks(mask: Pixels) -> Pixels:
    """The connected parts of a 0/1 mask that have at least a twentieth of the largest one's area."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0  # the ground
    kept: Pixels = ((areas >= areas.max() / 20) & (areas > 0))[parts].astype(np.uint8)
    return kept


def _resized(grey: Pixels, height: int, width: int) -> Pixels:
    return resize(np.repeat(grey[..., None], 3, axis=2), height, width)[..., 0]


class DigitPipeline(ClassifierPipeline):
    """The classifiers' pipeline, with the place of its crop, which depends on what is in the image."""

    def region(self, image: Image) -> tuple[float, float, float, float]:
        """What the network sees, xyxy in pixels of the upright original; may reach beyond it."""
        return place(image)[1]


def load(path: Path) -> LeNet5:
    """The network with weights that `models.training.lenet` made, in eval mode.

    Raises:
        WeightsError: the file is not such a safetensors file.
    """
    return load_state(LeNet5(), read_state(path), path.name)


def build(entry: Entry, files: Mapping[str, Path]) -> DigitPipeline:
    """The builder ``lenet5``; it has no options."""
    read_options(NoOptions, entry.options)
    card = entry.card(
        Kind.CLASSIFY,
        labels=LABELS,
        input=(SIZE, SIZE),
        details={"architecture": "LeNet-5", "input": "one digit; dark ink on paper is inverted"},
    )
    module = Classifier(load(files["weights"]), mean=(0.0,), scale=(255.0,))
    return DigitPipeline(card, module, digit_crop, min_side=8 * SIZE, features=module.features)
