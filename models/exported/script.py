"""TorchScript archives (`torch.jit.save`): read by PyTorch's own reader, which runs no pickle of Python's."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.errors import WeightsError
from models.exported.network import Network, Shape, TensorInfo, flatten, reason

_CALLS = re.compile(
    rb"\b(?:torch\.|ops\.aten\.)(from_file|save)\(|\bops\.(?!aten\.|prim\.|torchvision\.|quantized\.)(\w+\.\w+)"
)
"""In a module's code: operations that read or write files, and those of other libraries (torchvision's read
and write files, too)."""

_OF_TENSORS = ("aten::Bool", "aten::Int", "aten::Float", "aten::item", "aten::is_nonzero")
"""What makes a Python number of a tensor's value."""


class ScriptNetwork(Network):
    """A TorchScript archive; it says nothing of shapes.

    Raises:
        WeightsError: it cannot be read, takes more than an image, branches on data, or touches files.
    """

    format = "TorchScript"

    def __init__(self, path: Path) -> None:
        self.metadata = {}
        data = path.read_bytes()
        if called := _forbidden(data):  # before it is loaded, which may run some of its code
            raise WeightsError(f"{path.name} calls {called}, which may read or write files")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # TorchScript is no longer developed
                self._module = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
                graph = self._graph()
            arguments = self._module.forward.schema.arguments[1:]
        except Exception as error:  # the reader raises many kinds
            raise WeightsError(f"{path.name} cannot be read as TorchScript: {reason(error)}") from error
        self.inputs = tuple(TensorInfo(one.name) for one in arguments if not one.has_default_value())
        if len(self.inputs) != 1:
            raise WeightsError(f"{path.name} takes {len(self.inputs)} inputs, not one (the images)")
        if any(node.kind() in ("prim::If", "prim::Loop") and _on_data(node) for node in _nodes(graph)):
            raise WeightsError(
                f"{path.name} branches on data (prim::If or prim::Loop on a tensor's value): "
                "export it with torch.jit.trace or torch.export, without such a branch"
            )

    def _graph(self) -> Any:
        """The whole forward pass, with what is constant folded."""
        try:
            return torch.jit.freeze(self._module).inlined_graph
        except RuntimeError:  # frozen already
            return self._module.inlined_graph

    def output_shapes(self, batch: int, item: Sequence[int], dtype: str) -> list[Shape]:
        try:
            with torch.inference_mode():
                given = torch.zeros((batch, *item), dtype=getattr(torch, dtype))
                return [tuple(output.shape) for output in flatten(self._module(given))]
        except Exception as error:
            raise WeightsError(f"it does not take {dtype} {[batch, *item]}: {_last(error)}") from error

    def module(self) -> nn.Module:
        module: nn.Module = self._module
        return module

    def openvino(self, batch: int, item: Sequence[int], dtype: str) -> Any:
        example = torch.zeros((batch or 2, *item), dtype=getattr(torch, dtype))
        return convert(self._module, example)


def _forbidden(data: bytes) -> str:
    """The first call in an archive's code that is refused; empty: none."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            if name.partition("/")[2].startswith("code/") and (found := _CALLS.search(archive.read(name))):
                return (found[1] or found[2]).decode()
    return ""


def convert(module: nn.Module, example: torch.Tensor) -> Any:
    """A TorchScript module as OpenVINO's.

    Raises:
        WeightsError: OpenVINO does not know one of its operations.
    """
    import openvino

    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # of the tracer
            return openvino.convert_model(module, example_input=(example,))
    except Exception as error:
        raise WeightsError(f"OpenVINO cannot convert it: {reason(error)}") from error


def _last(error: BaseException) -> str:
    """The interpreter's own message ends with the line that matters."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _on_data(node: Any) -> bool:
    """Whether the condition of a branch, or the count of a loop, is computed from a tensor's values."""
    waiting = [value.node() for value in list(node.inputs())[:2]]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one.kind() in _OF_TENSORS and any(str(value.type()) == "Tensor" for value in one.inputs()):
            return True
        scalars = [value.node() for value in one.inputs() if str(value.type()) != "Tensor"]
        for source in scalars:
            if (key := hash(source)) not in seen:
                seen.add(key)
                waiting.append(source)
    return False
