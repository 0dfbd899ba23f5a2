"""Networks made faster for a GPU: norms folded into what they follow, weights of 16 bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models import registry
from models.inference import fold_norms, narrow
from models.pipeline import Pipeline
from models.weights import Catalogue, Store

torch.manual_seed(0)


def normed(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.uniform_(0.5, 2)
    return norm


class Branching(nn.Module):
    """Four pairs of a convolution and a norm, of which one may be folded.

    The second convolution's output is also read by the sum, the third runs twice, the fourth is read by a
    norm that runs twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.one, self.first = nn.Conv2d(3, 3, 3, padding=1), normed(3)
        self.two, self.second = nn.Conv2d(3, 3, 1, bias=False), normed(3)
        self.three, self.third = nn.Conv2d(3, 3, 1), normed(3)
        self.four, self.fourth = nn.Conv2d(3, 3, 1), normed(3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(self.one(images)).relu_()
        y = self.two(x)
        x = self.second(y) + y
        x = self.three(self.third(self.three(x)))
        x = self.fourth(self.four(x))
        x = self.fourth(x)
        assert isinstance(x, Tensor)
        return x


def test_only_a_norm_that_alone_reads_a_convolution_is_folded() -> None:
    module, images = Branching().eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        wanted = module(images)
        assert fold_norms(module, [images]) == 1
        torch.testing.assert_close(module(images), wanted)
    assert isinstance(module.first, nn.Identity)
    assert isinstance(module.second, nn.BatchNorm2d)
    assert fold_norms(module, [images]) == 0


def test_no_hook_is_left_behind_where_the_network_fails() -> None:
    module = Branching().eval()
    with pytest.raises(RuntimeError):
        fold_norms(module, [torch.zeros(1, 5, 8, 8)])
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


class Mixed(nn.Module):
    """Half of it has to stay as it is."""

    whole = ("head", "table")
    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.register_buffer("table", torch.ones(3))
        self.register_buffer("index", torch.arange(3))


def test_weights_become_narrow_but_for_those_named_whole() -> None:
    module = Mixed()
    narrow(module, torch.float16)
    found = {name: tensor.dtype for name, tensor in module.state_dict().items()}
    assert {name for name, dtype in found.items() if dtype == torch.float16} == {"body.weight", "body.bias"}
    assert found["index"] == torch.int64


def built(name: str) -> Pipeline:
    return registry.build(name, Catalogue(), Store())


@pytest.mark.parametrize(
    ("name", "norms"), [("efficientnet-lite0", 49), ("efficientdet-lite0", 48), ("yolo-person", 73)]
)
def test_every_norm_of_our_networks_is_folded(name: str, norms: int) -> None:
    pipeline = built(name)
    images = torch.randint(0, 256, (1, *pipeline.shapes[0]), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = pipeline.module(images)
        assert fold_norms(pipeline.module, [images]) == norms
        for got, want in zip(pipeline.module(images), wanted, strict=True):
            close = torch.isclose(got, want, atol=2e-3, rtol=1e-3)  # pixels, of a box's corner
            assert close.float().mean() > 0.99  # candidates with nearly the same score may change places
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in pipeline.module.modules())
