"""The layers of a network: what each gives, and how much of the input it sees.

A network is run once on torch's meta device, which computes shapes and no numbers, under a function mode that
follows the receptive field of every tensor by the arithmetic of convolutions and poolings (Araujo, Norris and
Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019,
https://distill.pub/2019/computing-receptive-fields, equations 1 to 4). So it costs no pass of the network,
and needs no list of known architectures.

A layer's name is that of the outermost module whose output a tensor is: what a module changes in place, such
as an activation, is no layer of its own. Modules that run several times in a pass have no output of their
own, and are left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.classification.classifier import Classifier
from models.classification.explain.maps import Layer, find_layer
from models.errors import ParameterInvalid
from models.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class _Axis:
    """Place i of an output depends on pixels `stride * i + first` to `stride * i + last` of the input."""

    stride: int
    first: int
    last: int

    def slid(self, kernel: int, stride: int, padding: int, dilation: int) -> _Axis:
        first = self.first - self.stride * padding
        return _Axis(
            self.stride * stride, first, self.last + first - self.first + self._reach(kernel, dilation)
        )

    def _reach(self, kernel: int, dilation: int) -> int:
        return self.stride * dilation * (kernel - 1)

    def padded(self, before: int) -> _Axis:
        return _Axis(self.stride, self.first - self.stride * before, self.last - self.stride * before)

    def with_(self, other: _Axis) -> _Axis:
        return _Axis(self.stride, min(self.first, other.first), max(self.last, other.last))


@dataclass(frozen=True, slots=True)
class _Field:
    """Of a tensor: its two axes; `last`: its channels come last, as those of an image of bytes."""

    y: _Axis
    x: _Axis
    last: bool = False

    def with_(self, other: _Field | None) -> _Field | None:
        if other is None or (self.y.stride, self.x.stride) != (other.y.stride, other.x.stride):
            return None
        return _Field(self.y.with_(other.y), self.x.with_(other.x), self.last)


_CONV: Final = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_POOL: Final = ("input", "kernel_size", "stride", "padding", "dilation")
_AVERAGE: Final = ("input", "kernel_size", "stride", "padding")
_MIXES: Final = frozenset(
    [
        "matmul",
        "bmm",
        "einsum",
        "scaled_dot_product_attention",
        "linear",
        "transpose",
        "flip",
        "roll",
        "cumsum",
        "softmax",
        "group_norm",
        "instance_norm",
        "reshape",
        "view",
        "interpolate",
    ]
)
"""Functions whose outputs' places depend on others than those at the same place, whatever the shapes say."""


class _Trace(TorchFunctionMode):
    """Follows receptive fields from an input, and counts multiplications."""

    def __init__(self, inputs: Tensor, last: bool) -> None:
        super().__init__()
        one = _Axis(1, 0, 0)
        self.multiply_adds = 0
        self._known: dict[int, tuple[Tensor, _Field | None]] = {id(inputs): (inputs, _Field(one, one, last))}

    def field(self, tensor: Tensor) -> _Field | None:
        """Of a tensor of this pass; None: all of the input, or unknown."""
        return self._known.get(id(tensor), (None, None))[1]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "").strip("_")
        given = [one for one in _tensors((args, kwargs)) if id(one) in self._known]
        for made in _tensors(result):
            if given:  # the tensor is kept, so that its id stays its own
                self._known[id(made)] = made, self._after(name, given, made, args, kwargs)
        self._count(name, args, result)
        return result

    def _after(
        self, name: str, given: list[Tensor], made: Tensor, args: Any, kwargs: Mapping[str, Any]
    ) -> _Field | None:
        first = self.field(given[0])
        if first is None:
            return None
        if name == "permute":
            order = tuple(args[1:]) if isinstance(args[1], int) else tuple(args[1])
            return _Field(first.y, first.x) if first.last and order == (0, 3, 1, 2) else None
        if name == "conv2d":
            named = {**dict(zip(_CONV, args, strict=False)), **kwargs}
            return _slid(first, tuple(named["weight"].shape[2:]), named)
        if name in ("max_pool2d", "max_pool2d_with_indices", "avg_pool2d"):
            named = {**dict(zip(_AVERAGE if name == "avg_pool2d" else _POOL, args, strict=False)), **kwargs}
            kernel = _pair(named["kernel_size"])
            return _slid(first, kernel, {"stride": named.get("stride") or kernel} | _set(named))
        if name == "pad":
            sides = [*(args[1] if len(args) > 1 else kwargs["pad"]), 0, 0, 0, 0]
            return _Field(first.y.padded(sides[2]), first.x.padded(sides[0]), first.last)
        if name in _MIXES or made.dim() < 3:
            return None
        shape = made.shape if first.last else made.shape[-2:]
        if shape != (given[0].shape if first.last else given[0].shape[-2:]):
            return None
        together: _Field | None = first
        for other in given[1:]:
            together = together and together.with_(self.field(other))
        return together

    def _count(self, name: str, args: Any, result: Any) -> None:
        if name in ("conv2d", "linear") and isinstance(result, Tensor):
            self.multiply_adds += result.numel() * args[1][0].numel()


def _set(named: Mapping[str, Any]) -> dict[str, Any]:
    return {key: named[key] for key in ("padding", "dilation") if named.get(key) is not None}


def _slid(field: _Field, kernel: tuple[int, ...], named: Mapping[str, Any]) -> _Field:
    stride, dilation = _pair(named.get("stride") or 1), _pair(named.get("dilation") or 1)
    padding = named.get("padding") or 0
    if padding == "valid":
        padding = 0
    pads = (
        [dilation[axis] * (kernel[axis] - 1) // 2 for axis in (0, 1)] if padding == "same" else _pair(padding)
    )
    y, x = (
        axis.slid(kernel[at], stride[at], pads[at], dilation[at])
        for at, axis in enumerate((field.y, field.x))
    )
    return _Field(y, x)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return int(first), int(rest[0] if rest else first)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    return [one for item in value for one in _tensors(item)] if isinstance(value, list | tuple) else []


def twin(network: nn.Module, owner: nn.Module, tensors: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a network's modules, to be hooked while others run the network.

    Args:
        network: any.
        owner: what the network's hooks belong to; not copied.
        tensors: of a parameter or buffer -> the copy's, which may be the same.
    """
    memo: dict[int, Any] = {id(owner): owner} if owner is not network else {}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(tensors(parameter.detach()), requires_grad=False)
    for buffer in network.buffers():
        memo[id(buffer)] = tensors(buffer)
    return copy.deepcopy(network, memo).eval()


def network_of(pipeline: Pipeline) -> nn.Module:
    """What a pipeline's layers are named in: a classifier's network, without what is around it."""
    module = pipeline.module
    return module.network if isinstance(module, Classifier) else module


def layers_of(pipeline: Pipeline) -> tuple[Layer, ...]:
    """The layers that give feature maps, in the order in which they run.

    Raises:
        ParameterInvalid: it has none that can be looked at: an exported graph.
    """
    found: tuple[Layer, ...] = ()
    if pipeline.layered:
        found = _layers(pipeline.module, tuple(pipeline.shapes[0]))
    if not found:
        raise ParameterInvalid("model", f"the model {pipeline.card.name!r} has no layers to look at")
    return found


@lru_cache(maxsize=16)
def _layers(module: nn.Module, shape: tuple[int, int, int]) -> tuple[Layer, ...]:
    classifier = isinstance(module, Classifier)
    network = twin(
        module.network if isinstance(module, Classifier) else module, module, lambda one: one.to("meta")
    )
    height, width, channels = shape
    if classifier:
        inputs = torch.zeros(1, 3, height, width, device="meta")
    else:
        inputs = torch.zeros(1, height, width, channels, dtype=torch.uint8, device="meta")
    names = {one: name for name, one in network.named_modules() if name}
    runs: dict[nn.Module, int] = dict.fromkeys(names, 0)
    outputs: dict[int, tuple[Tensor, int, list[nn.Module]]] = {}

    def keep(one: nn.Module, given: Any, output: Any) -> None:
        runs[one] += 1
        if isinstance(output, Tensor) and output.dim() == 4 and not isinstance(one, _SILENT):
            outputs.setdefault(id(output), (output, trace.multiply_adds, []))[2].append(one)

    trace = _Trace(inputs, last=not classifier)
    for one in names:
        one.register_forward_hook(keep)
    try:
        with torch.inference_mode(), trace:
            network(inputs)
    except Exception:  # of a network that looks at numbers: what came before is known  # noqa: S110
        pass
    return tuple(
        _layer(once, names, output, trace.field(output), count)
        for output, count, modules in outputs.values()
        if (once := [one for one in modules if runs[one] == 1])
    )


_SILENT: Final = (nn.Dropout, nn.Dropout2d, nn.Identity)


def _layer(
    modules: list[nn.Module],
    names: Mapping[nn.Module, str],
    output: Tensor,
    field: _Field | None,
    multiply_adds: int,
) -> Layer:
    _, channels, height, width = output.shape
    extent = None if field is None else (field.y.last - field.y.first + 1, field.x.last - field.x.first + 1)
    filters = None
    for one in modules:
        if isinstance(one, nn.Conv2d):
            count, inputs, rows, columns = one.weight.shape
            filters = count, inputs, rows, columns
    return Layer(
        names[modules[-1]],
        type(modules[-1]).__name__,
        tuple(names[one] for one in modules),
        channels,
        height,
        width,
        extent,
        None if field is None else (field.y.stride, field.x.stride),
        filters,
        multiply_adds,
    )


def layer_of(pipeline: Pipeline, name: str | None) -> Layer:
    """One of its layers; see `maps.find_layer`.

    Raises:
        ParameterInvalid: there is no such layer, or none at all.
    """
    return find_layer(pipeline.card.name, layers_of(pipeline), name)
