"""The three networks of MTCNN: proposals, refinement, output.

Zhang, Zhang, Li, Qiao, "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks"
(2016, https://arxiv.org/abs/1604.02878), figure 2, with the weights of the package facenet-pytorch (MIT).

Every network takes pixels as they are, Tensor[N, H, W, 3], RGB, 0 to 255, of any type, and normalises them
itself. The original's two-class softmax is written as the sigmoid of the logits' difference, which is the
same number from half the weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.checkpoint import load_state, read_state
from models.errors import WeightsError


class Network(nn.Module):
    """A network that can read its weights from facenet-pytorch's files."""

    def load(self, path: Path) -> None:
        """Reads a file of facenet-pytorch (`torch.save` of a state dict; nothing but tensors is unpickled).

        Raises:
            WeightsError: the file does not load or is another network's.
        """
        state = read_state(path)
        try:
            converted = self.convert(state)
        except (KeyError, RuntimeError) as error:  # other names, other shapes
            raise WeightsError(f"{path.name} does not fit MTCNN's {type(self).__name__}: {error}") from error
        load_state(self, converted, path.name)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """facenet-pytorch's names and layouts -> this network's."""
        raise NotImplementedError

    @staticmethod
    def normalise(images: Tensor, like: Tensor) -> Tensor:
        """Tensor[N, H, W, 3], 0 to 255 -> Tensor[N, 3, H, W], about -1 to 1, in the weights' precision."""
        # in this order OpenVINO neither transposes nor copies
        return ((images.float() - 127.5) / 128.0).permute(0, 3, 1, 2).to(like.dtype)


def _merge(state: dict[str, Tensor], classes: str, *others: str) -> dict[str, Tensor]:
    """One head of several: a face's logit (that of a face less that of none), then the regressions."""
    merged = {}
    for kind in ("weight", "bias"):
        logits = state[f"{classes}.{kind}"]
        merged[f"head.{kind}"] = torch.cat(
            (logits[1:] - logits[:1], *(state[f"{name}.{kind}"] for name in others))
        )
    return merged


def _dense(weight: Tensor, channels: int) -> Tensor:
    """The original flattens columns, rows, channels; torch flattens channels, rows, columns."""
    return weight.view(-1, 3, 3, channels).permute(0, 3, 2, 1).flatten(1)


def _rest(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The layers whose names are the same here, without the heads and the dense layer."""
    return {
        key: value for key, value in state.items() if key.startswith(("conv1", "conv2", "conv3", "prelu"))
    }


class PNet(Network):
    """Proposals: a classifier of 12 x 12 pixels, run over a whole image at a stride of two.

    Tensor[N, H, W, 3], H and W even -> scores Tensor[N, P] (0 to 1) and regressions Tensor[N, 4, P]
    (shifts of left, top, right, bottom in units of the window), P = ((H - 10) / 2) * ((W - 10) / 2), row by
    row.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.head = nn.Conv2d(32, 5, 1)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return _rest(state) | _merge(state, "conv4_1", "conv4_2")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(self.prelu1(self.conv1(self.normalise(images, self.head.weight))), 2)
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        x = self.head(x).float().flatten(2)  # near 1 a score of 16 bits has ties
        return x[:, 0].sigmoid(), x[:, 1:]


class RNet(Network):
    """Refinement of candidates.

    Tensor[M, 24, 24, 3] -> scores Tensor[M] and regressions Tensor[M, 4].
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense, self.prelu4 = nn.Linear(64 * 3 * 3, 128), nn.PReLU(128)
        self.head = nn.Linear(128, 5)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        dense = {"dense.weight": _dense(state["dense4.weight"], 64), "dense.bias": state["dense4.bias"]}
        return _rest(state) | dense | _merge(state, "dense5_1", "dense5_2")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(
            self.prelu1(self.conv1(self.normalise(images, self.head.weight))), 3, 2, ceil_mode=True
        )
        x = F.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = self.prelu3(self.conv3(x)).flatten(1)
        x = self.head(self.prelu4(self.dense(x))).float()
        return x[:, 0].sigmoid(), x[:, 1:]


class ONet(Network):
    """Output: the final score of a candidate, and its landmarks.

    Tensor[M, 48, 48, 3] -> scores Tensor[M], regressions Tensor[M, 4] and landmarks Tensor[M, 5, 2],
    (x, y) in units of the candidate's box from its upper left corner.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense, self.prelu5 = nn.Linear(128 * 3 * 3, 256), nn.PReLU(256)
        self.head = nn.Linear(256, 15)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        dense = {"dense.weight": _dense(state["dense5.weight"], 128), "dense.bias": state["dense5.bias"]}
        fourth = {key: value for key, value in state.items() if key.startswith("conv4")}
        return _rest(state) | fourth | dense | _merge(state, "dense6_1", "dense6_2", "dense6_3")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(
            self.prelu1(self.conv1(self.normalise(images, self.head.weight))), 3, 2, ceil_mode=True
        )
        x = F.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu3(self.conv3(x)), 2, ceil_mode=True)
        x = self.prelu4(self.conv4(x)).flatten(1)
        x = self.head(self.prelu5(self.dense(x))).float()
        return x[:, 0].sigmoid(), x[:, 1:5], x[:, 5:].view(-1, 2, 5).transpose(1, 2)
