"""ONNX files. OpenVINO reads them on a CPU, ONNX Runtime on a GPU; no network is built in PyTorch."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import WeightsError
from models.exported.network import Network, Shape, TensorInfo, reason
from models.ir.convert import forgo_telemetry

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types of protobuf

# Field numbers of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
_MODEL_GRAPH, _MODEL_OPSETS, _OPSET_DOMAIN, _OPSET_VERSION = 7, 8, 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_ATTRIBUTE, _ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _TENSOR_LOCATION = 5, 5, 6, 14

_NEWEST = 27
"""Of ONNX's opsets: the last whose operators OpenVINO 2026.4 knows; it would read a later one as that."""

_BRANCHES = ("If", "Loop", "TensorIterator")
"""OpenVINO's operations that choose or repeat a subgraph."""


class OnnxNetwork(Network):
    """An ONNX file, whole: weights in a second file are refused, since no digest covers that.

    Raises:
        WeightsError: it cannot be read, has weights elsewhere, operators that OpenVINO does not know, several
            inputs, or branches on data.
    """

    format = "ONNX"
    capturable = False  # ONNX Runtime runs it on a stream of its own

    def __init__(self, path: Path) -> None:
        self._data, self._name = path.read_bytes(), path.name
        self._opset = _opset(memoryview(self._data), path.name)
        self.details = {"opset": self._opset}
        model = self._read()
        self.inputs = tuple(_info(port, index) for index, port in enumerate(model.inputs))
        self.outputs = tuple(_info(port, index) for index, port in enumerate(model.outputs))
        self.metadata = _metadata(model)
        if len(self.inputs) != 1:
            names = ", ".join(one.name for one in self.inputs)
            raise WeightsError(f"{path.name} takes {len(self.inputs)} inputs ({names}), not one (the images)")

    def _read(self) -> Any:
        forgo_telemetry()
        import openvino

        try:
            return openvino.Core().read_model(self._data)
        except Exception as error:
            raise WeightsError(
                f"OpenVINO cannot read {self._name} (ONNX opset {self._opset}): {reason(error)}"
            ) from error

    def output_shapes(self, batch: int, item: Sequence[int], dtype: str) -> list[Shape]:
        model = self._read()
        try:
            model.reshape({0: [batch, *item]})
        except Exception as error:
            raise WeightsError(f"it does not take {dtype} {[batch, *item]}: {reason(error)}") from error
        if branching := sorted({op.get_type_name() for op in model.get_ops()} & set(_BRANCHES)):
            raise WeightsError(f"{self._name} branches on data ({', '.join(branching)}): export it without")
        return [_shape(port) for port in model.outputs]

    def module(self) -> nn.Module:
        return OnnxRuntimeModule(self._data, self._name)

    def openvino(self, batch: int, item: Sequence[int], dtype: str) -> Any:
        return self._read()


class OnnxRuntimeModule(nn.Module):
    """An ONNX file that ONNX Runtime runs, where Torch's tensors are: Tensor[N, ...] -> its outputs.

    The session is made when the module is moved to its device, or at the first batch.
    """

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__()
        self._data, self._name = data, name
        self._session: Any = None
        self._device = torch.device("cpu")

    def to(self, *args: Any, **kwargs: Any) -> OnnxRuntimeModule:
        """Makes the session for a device.

        Raises:
            WeightsError: ONNX Runtime is not installed, or not for such a device.
        """
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        if device is not None:
            self._device = device
            self._session = self._open()
        return self

    def _open(self) -> Any:
        package = "onnxruntime-gpu" if self._device.type == "cuda" else "onnxruntime"
        if importlib.util.find_spec("onnxruntime") is None:
            raise WeightsError(
                f"{self._name} is ONNX, which Torch cannot run: install {package}, "
                "or run it on a CPU with LYNCEUS_EXECUTOR=openvino, or export it with torch.export"
            )
        runtime = importlib.import_module("onnxruntime")
        providers: list[Any] = ["CPUExecutionProvider"]
        if self._device.type == "cuda":
            if "CUDAExecutionProvider" not in runtime.get_available_providers():
                raise WeightsError(f"{self._name} needs ONNX Runtime with CUDA: install {package}")
            providers = [("CUDAExecutionProvider", {"device_id": self._device.index or 0}), *providers]
        try:
            options = runtime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()  # as many as Torch may use
            return runtime.InferenceSession(self._data, options, providers=providers)
        except Exception as error:
            raise WeightsError(f"ONNX Runtime cannot read {self._name}: {reason(error)}") from error

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Float or uint8 Tensor[N, ...] -> every output, on the same device."""
        if self._session is None:
            self._session = self._open()
        images = images.contiguous()
        kind, index = images.device.type, images.device.index or 0
        if kind == "cuda":
            torch.cuda.current_stream(index).synchronize()  # ONNX Runtime has streams of its own
        (given,) = self._session.get_inputs()
        dtype, shape = images[:0].cpu().numpy().dtype, tuple(images.shape)
        binding = self._session.io_binding()
        binding.bind_input(given.name, kind, index, dtype, shape, images.data_ptr())
        for output in self._session.get_outputs():
            binding.bind_output(output.name, kind, index)
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return tuple(
            torch.utils.dlpack.from_dlpack(one._ortvalue.to_dlpack()) for one in binding.get_outputs()
        )


def _shape(port: Any) -> Shape:
    return tuple(
        size.get_length() if size.is_static else None
        for size in (port.partial_shape if port.partial_shape.rank.is_static else ())
    )


def _info(port: Any, index: int) -> TensorInfo:
    names = sorted(port.get_names())
    dtype = {"f32": "float32", "f16": "float16", "u8": "uint8"}.get(port.element_type.to_string(), "")
    dtype = dtype or port.element_type.to_string()
    return TensorInfo(names[0] if names else str(index), _shape(port), dtype)


def _metadata(model: Any) -> dict[str, str]:
    """`metadata_props`, which OpenVINO keeps under "framework"."""
    if "framework" not in model.rt_info:
        return {}
    return {key: str(model.get_rt_info(["framework", key]).value) for key in model.rt_info["framework"]}


def _opset(data: memoryview, name: str) -> int:
    """The version of ONNX's own operators.

    Raises:
        WeightsError: it is no ONNX, of a version that is not known, or has weights in another file.
    """
    version, graphs = 0, 0
    try:
        for field, value in _fields(data):
            if field == _MODEL_OPSETS and isinstance(value, memoryview):
                opset = dict(_fields(value))
                domain, number = opset.get(_OPSET_DOMAIN, b""), opset.get(_OPSET_VERSION, 0)
                if not isinstance(domain, int) and bytes(domain) in (b"", b"ai.onnx"):
                    version = number if isinstance(number, int) else 0
            elif field == _MODEL_GRAPH and isinstance(value, memoryview):
                graphs += 1
                if _elsewhere(value):
                    raise WeightsError(
                        f"{name} has its weights in another file, which no digest covers: "
                        "export it with external_data=False"
                    )
    except (IndexError, ValueError):
        graphs = 0
    if graphs != 1 or version < 1:
        raise WeightsError(
            f"{name} is none of: a torch.export archive (.pt2), TorchScript (.pt), ONNX (.onnx)"
        )
    if version > _NEWEST:
        raise WeightsError(f"{name} is of ONNX opset {version}; OpenVINO knows those up to {_NEWEST}")
    return version


def _elsewhere(graph: memoryview) -> bool:
    """Whether a tensor of a graph, or of one within it, is kept in another file."""
    for field, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if field == _GRAPH_INITIALIZER and _external(value):
            return True
        if field == _GRAPH_NODE:
            for part, attribute in _fields(value):
                if part == _NODE_ATTRIBUTE and isinstance(attribute, memoryview):
                    for kind, inner in _fields(attribute):
                        if isinstance(inner, memoryview) and (
                            (kind == _ATTRIBUTE_TENSOR and _external(inner))
                            or (kind == _ATTRIBUTE_GRAPH and _elsewhere(inner))
                        ):
                            return True
    return False


def _external(tensor: memoryview) -> bool:
    return any(field == _TENSOR_LOCATION and value == 1 for field, value in _fields(tensor))


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """A protobuf message's fields: number and value, a number or the bytes of a text or a message.

    Raises:
        IndexError, ValueError: it is none.
    """
    place, end = 0, len(data)
    while place < end:
        key, place = _varint(data, place)
        wire, field = key & 7, key >> 3
        if field == 0:
            raise ValueError("field 0")
        if wire == _VARINT:
            number, place = _varint(data, place)
            yield field, number
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if length is None:
            if wire != _LENGTH:
                raise ValueError(f"wire type {wire}")
            length, place = _varint(data, place)
        if place + length > end:
            raise ValueError("cut short")
        yield field, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
