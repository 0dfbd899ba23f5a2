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

from pathlib import Path

from torch import Tensor, nn

from models.checkpoint import load_state, read_state

# The paper's levels (section II.B), which make the mean about 0 and the variance about 1.
BACKGROUND, INK = -0.1, 1.175


class LeNet5(nn.Module):
    """float Tensor[N, 3, 32, 32], RGB, 0..1, light ink on black -> logits Tensor[N, 10].

    `features` and `classify` are the two halves: the feature maps, and the layers that see all of a window.
    Nothing pads, so on a larger image their map holds exactly the logits of its windows.
    """

    def __init__(self) -> None:
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
            nn.Conv2d(84, 10, 1),
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


def load(path: Path) -> LeNet5:
    """The network with weights that `models.training.lenet` made, in eval mode.

    Raises:
        WeightsError: the file is not such a safetensors file.
    """
    return load_state(LeNet5(), read_state(path), path.name)
