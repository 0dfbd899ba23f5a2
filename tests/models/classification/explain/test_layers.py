"""The list of layers: names, shapes, and receptive fields against what gradients say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from models.classification.efficientnet import EfficientNetLite
from models.classification.explain.layers import layer_of, layers_of
from models.classification.explain.maps import check_channel
from models.errors import ParameterInvalid
from tests.models.classification.explain.test_cam import digits, pipeline_of


class Odd(nn.Module):
    """Dilation, padding on one side, uneven kernels and strides, branches of several widths."""

    def __init__(self) -> None:
        super().__init__()
        self.uneven = nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(0, 3))
        self.dilated = nn.Conv2d(4, 4, 3, dilation=3, padding=3)
        self.narrow = nn.Conv2d(4, 4, 1)
        self.pool = nn.AvgPool2d(3, 2, padding=1)
        self.same = nn.Conv2d(8, 4, 5, padding="same")
        self.classify = nn.Linear(4, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.uneven(nn.functional.pad(inputs, (2, 0, 1, 0)))
        hidden = torch.cat([self.dilated(hidden), self.narrow(hidden)], 1)
        logits: Tensor = self.classify(self.same(self.pool(hidden)).mean((2, 3)))
        return logits


def positive(network: nn.Module) -> nn.Module:
    """All weights over zero, all norms idle, means for maxima: no gradient cancels, and no unit rests."""
    for one in list(network.modules()):
        for name, inner in one.named_children():
            if isinstance(inner, nn.MaxPool2d):
                mean = nn.AvgPool2d(inner.kernel_size, inner.stride, inner.padding, inner.ceil_mode)
                setattr(one, name, mean)
        if isinstance(one, nn.Conv2d):
            nn.init.constant_(one.weight, 1 / one.weight[0].numel())
            if one.bias is not None:
                nn.init.zeros_(one.bias)
    return network.double().eval()


def measured(network: nn.Module, layer: str, side: int) -> tuple[int, int]:
    """Height and width of what the middle of a layer's output depends on, by its gradient."""
    kept: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda one, given, made: kept.append(made))
    inputs = torch.ones(1, 3, side, side, dtype=torch.float64).requires_grad_()
    network(inputs)
    handle.remove()
    row, column = (length // 2 for length in kept[0].shape[2:])
    (gradient,) = torch.autograd.grad(kept[0][0, :, row, column].sum(), inputs)
    seen = gradient[0].abs().sum(0) > 0
    rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
    return int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, tuple[str, ...]]] = {
    "lite0": (
        lambda: EfficientNetLite(10),
        224,
        ("backbone.stem", "backbone.blocks.1.depthwise.conv", "backbone.blocks.4"),
    ),
    "resnet": (
        lambda: tv.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10),
        320,
        ("conv1", "maxpool", "layer1", "layer2.0.conv1", "layer3", "layer4"),
    ),
    "squeezenet": (lambda: tv.squeezenet1_1(num_classes=10), 160, ("features.1", "features.2", "features.6")),
    "googlenet": (
        lambda: tv.googlenet(num_classes=10, aux_logits=False, init_weights=False),
        320,
        ("conv3", "inception3a.branch1", "inception3a", "inception4a"),
    ),
    "odd": (Odd, 64, ("uneven", "dilated", "narrow", "pool", "same")),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_receptive_fields_are_those_that_gradients_measure(name: str) -> None:
    make, side, wanted = NETWORKS[name]
    torch.manual_seed(0)
    network = make()
    found = {layer.name: layer for layer in layers_of(pipeline_of(network, size=96))}
    network = positive(network)
    for layer in wanted:
        expected = measured(network, layer, side)
        assert max(expected) < side, "the input is too small to measure it"
        assert found[layer].receptive_field == expected, layer


def test_published_receptive_fields() -> None:
    """Of torchvision's networks, as Araujo et al. and others give them."""
    for make, layer, field in (
        (tv.resnet18, "layer4", 435),
        (tv.vgg16, "features", 212),
        (tv.alexnet, "features", 195),
    ):
        with torch.device("meta"):
            network = make(num_classes=10)
        assert layer_of(pipeline_of(network), layer).receptive_field == (field, field)


def test_shapes_and_costs_are_those_of_a_pass() -> None:
    network = EfficientNetLite(10).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    names = {one: name for name, one in network.named_modules()}

    def keep(one: nn.Module, given: object, made: object) -> None:
        if isinstance(made, Tensor):
            shapes[names[one]] = made.shape[1:]

    found = layers_of(pipeline_of(network, size=64))
    for one in names:
        one.register_forward_hook(keep)
    with torch.inference_mode():
        network(torch.zeros(1, 3, 64, 64))
    assert len({layer.name for layer in found}) == len(found) > 100
    for layer in found:
        assert layer.shape == shapes[layer.name], layer.name
    first, last = found[0], found[-1]
    assert (first.name, first.filters) == ("backbone.stem.conv", (32, 3, 3, 3))
    assert first.multiply_adds == 32 * 27 * 32**2
    assert (last.name, last.stride) == ("head", (32, 32))
    assert [layer.multiply_adds for layer in found] == sorted(layer.multiply_adds for layer in found)
    # a convolution that an activation overwrites goes by the activation's name, and is found by its own
    squeezed = pipeline_of(tv.squeezenet1_1(num_classes=10))
    assert layer_of(squeezed, "features.0").name == "features.1"
    assert layer_of(squeezed, "features.0").filters == (64, 3, 3, 3)


def test_what_sees_all_of_the_input_has_no_field() -> None:
    squeezed = {layer.name: layer for layer in layers_of(pipeline_of(tv.mobilenet_v3_small(num_classes=10)))}
    assert squeezed["features.0"].receptive_field == (3, 3)
    assert squeezed["features.1"].receptive_field is None  # squeeze and excitation


def test_the_list_leaves_the_network_as_it_was() -> None:
    network = EfficientNetLite(10)
    before = {name: (one.data_ptr(), one.device) for name, one in network.named_parameters()}
    pipeline = pipeline_of(network)
    layers_of(pipeline)
    assert {name: (one.data_ptr(), one.device) for name, one in network.named_parameters()} == before
    assert not any(one._forward_hooks for one in network.modules())


def test_an_unknown_name_is_refused_with_a_near_one() -> None:
    pipeline = digits()
    assert layer_of(pipeline, None).name == "features"  # and features.5, which ends it
    with pytest.raises(ParameterInvalid, match=r"no layer 'feature.3'; did you mean features\.3") as caught:
        layer_of(pipeline, "feature.3")
    assert caught.value.parameter == "layer"
    with pytest.raises(ParameterInvalid, match="there are") as caught:
        layer_of(pipeline, "x" * 10_000)
    assert len(str(caught.value)) < 400
    with pytest.raises(ParameterInvalid, match="channels 0 to 15") as caught:
        check_channel(layer_of(pipeline, "features.3"), 16)
    assert caught.value.parameter == "channel"
