"""`torch.export` archives (`.pt2`).

`torch.export.load` unpickles some parts of an archive and evaluates others (symbolic shapes, names of
functions), so an archive is examined first: one that holds anything but tensors, shapes and operators of
PyTorch's own is refused. Of its pickles that of the sample inputs is left, which must hold tensors alone.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.errors import WeightsError
from models.exported.network import Network, Shape, TensorInfo, reason
from models.exported.script import convert

_OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims|prim|torchvision|quantized_decomposed)\.\w+(\.\w+)?"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
    r"|torch\.sym_\w+|torch\._sym_sqrt"
    r"|_?operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|pow|abs|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|math\.(ceil|floor|trunc|sqrt)"
)
_BRANCHES = re.compile(r"torch\.ops\.higher_order\.(cond|while_loop|map_impl|scan)")
_FILES = re.compile(r"torch\.ops\.aten\.(from_file|save)\b")
_SYMBOL = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")
_EXPRESSION = re.compile(r"([\d\s()+*/%,<>=&|~-]|\b\d+\.\d+\b|\b[suz]f?\d+\b|\b[A-Z][A-Za-z]+\b)*")


class ProgramNetwork(Network):
    """A `torch.export` archive.

    Raises:
        WeightsError: it cannot be read, holds more than tensors and PyTorch's operators, takes more than an
            image, or branches on data.
    """

    format = "torch.export"

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        _examine(data, path.name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._program = torch.export.load(io.BytesIO(data))
            graph = self._program.graph
            given = self._program.graph_signature.user_inputs
            results = self._program.graph_signature.user_outputs
            values = {node.name: node.meta.get("val") for node in graph.nodes}
        except Exception as error:  # the reader raises many kinds
            raise WeightsError(f"{path.name} cannot be read by torch.export: {reason(error)}") from error
        self.metadata = {}
        self.inputs = tuple(_info(name, values) for name in given if isinstance(name, str))
        self.outputs = tuple(_info(name, values) for name in results if isinstance(name, str))
        if len(self.inputs) != 1 or self.inputs[0].shape is None:
            raise WeightsError(f"{path.name} takes {len(given)} inputs, not one (the images)")

    def output_shapes(self, batch: int, item: Sequence[int], dtype: str) -> list[Shape]:
        try:
            with torch.inference_mode():
                outputs = _plain(self._program)(torch.zeros((batch, *item), dtype=getattr(torch, dtype)))
        except Exception as error:
            raise WeightsError(f"it does not take {dtype} {[batch, *item]}: {reason(error)}") from error
        leaves = torch.utils._pytree.tree_leaves(outputs)
        return [tuple(leaf.shape) for leaf in leaves if isinstance(leaf, torch.Tensor)]

    def module(self) -> nn.Module:
        return ProgramModule(self._program)

    def openvino(self, batch: int, item: Sequence[int], dtype: str) -> Any:
        import openvino

        example = torch.zeros((batch or 2, *item), dtype=getattr(torch, dtype))
        sizes = any("sym_size" in str(node.target) for node in self._program.graph.nodes)
        if batch == 0 and sizes:
            # it computes with the batch's size, which a trace would take for a constant; this way is slower
            try:
                return openvino.convert_model(self._program)
            except Exception as error:
                raise WeightsError(f"OpenVINO cannot convert it: {reason(error)}") from error
        try:
            with warnings.catch_warnings(), torch.inference_mode():
                warnings.simplefilter("ignore")  # of the tracer
                traced = torch.jit.trace(_plain(self._program), (example,), check_trace=False)
        except Exception as error:
            raise WeightsError(f"it does not take {dtype} {list(example.shape)}: {reason(error)}") from error
        return convert(traced, example)


class ProgramModule(nn.Module):
    """An exported program that follows its parameters to another device."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self._program = program
        self.network = _plain(program)

    def to(self, *args: Any, **kwargs: Any) -> ProgramModule:
        """As every module; devices that the graph names (of constants that it makes) follow."""
        from torch.export.passes import move_to_device_pass

        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        if device is not None and device.type != "cpu":
            self._program = move_to_device_pass(self._program, device)
            self.network = _plain(self._program)
        return self

    def forward(self, images: torch.Tensor) -> Any:
        """Whatever the program gives."""
        return self.network(images)


def _plain(program: torch.export.ExportedProgram) -> nn.Module:
    """The graph alone, without checks of the input before it, which cannot be traced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = program.module(check_guards=False)
        return torch.fx.GraphModule(module, module.graph).eval()


def _info(name: str, values: dict[str, Any]) -> TensorInfo:
    value = values.get(name)
    if not isinstance(value, torch.Tensor):
        return TensorInfo(name)
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorInfo(name, shape, str(value.dtype).removeprefix("torch."))


def _examine(data: bytes, name: str) -> None:
    """
    Raises:
        WeightsError: the archive holds what could run code, or is incomplete.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {member.partition("/")[2]: member for member in archive.namelist()}
            if len(members) != len(archive.namelist()):  # readers would differ in which one they take
                raise WeightsError(f"{name} holds members of one name")
            programs = [member for member in members if member.startswith("models/")]
            if programs != ["models/model.json"]:
                raise WeightsError(f"{name} holds {len(programs)} programs, not one named model")
            if any(member.startswith("data/aotinductor/") for member in members):
                raise WeightsError(f"{name} holds compiled machine code (AOTInductor), which is not loaded")
            if pickled := [
                member for member in members if re.fullmatch(r"data/(weights|constants)/.*\.pt", member)
            ]:
                raise WeightsError(f"{name} holds pickled tensors ({pickled[0]}): export it again")
            for kind in ("weights", "constants"):
                config = json.loads(archive.read(members[f"data/{kind}/model_{kind}_config.json"]))
                for key, payload in config["config"].items():
                    stored = payload["path_name"]
                    if payload["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", stored):
                        raise WeightsError(f"{name} holds a pickled object for {key}, which is not loaded")
            sample = archive.read(members["data/sample_inputs/model.pt"])
            program = json.loads(archive.read(members["models/model.json"]))
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"{name} is no complete torch.export archive: {reason(error)}") from error
    try:
        if sample:
            torch.load(io.BytesIO(sample), weights_only=True)
    except Exception as error:
        raise WeightsError(f"{name} holds pickled objects as sample inputs: {reason(error)}") from error
    for key, text in _texts(program):
        if key == "target" and _BRANCHES.fullmatch(text):
            raise WeightsError(
                f"{name} branches on data ({text}): export a network without torch.cond or torch.while_loop"
            )
        if key == "target" and (_FILES.match(text) or not _OPERATORS.fullmatch(text)):
            raise WeightsError(f"{name} calls {text[:80]!r}, which is no operator of PyTorch's own")
        if key == "expr_str" and not _EXPRESSION.fullmatch(_SYMBOL.sub("s0", text)):
            raise WeightsError(f"{name} has a size {text[:80]!r}, which is no arithmetic")


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """The texts that are evaluated: by key, the names of functions and the expressions of sizes."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "range_constraints":
                yield from (("expr_str", symbol) for symbol in inner)
            if isinstance(inner, str) and key in ("target", "expr_str"):
                yield key, inner
            else:
                yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
