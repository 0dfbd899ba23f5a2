"""OpenVINO's own format, the intermediate representation (IR): made of a module, and as one file.

An IR is a graph in XML and its constants. Making it of a module takes torch and seconds, reading it neither.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from models.errors import WeightsError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Port:
    """An input of a network.

    Attributes:
        shape: of an item.
        dtype: of its numbers.
    """

    shape: tuple[int, ...]
    dtype: DTypeLike

    @classmethod
    def of(cls, batch: NDArray[Any]) -> Port:
        """That of a stacked input, [N, *shape]."""
        return cls(batch.shape[1:], batch.dtype)


def convert(module: nn.Module, ports: Sequence[Port]) -> Any:
    """Traces a module into an `openvino.Model`.

    Args:
        module: in eval mode; does not branch on data.
        ports: its inputs.
    """
    forgo_telemetry()
    import openvino
    import torch

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of the tracer: the modules do not branch on data
        # two rows, so that no dimension of one is mistaken for something to broadcast
        example = tuple(torch.from_numpy(np.zeros((2, *port.shape), port.dtype)) for port in ports)
        # traced here, since the converter's own tracing runs it thrice to compare
        traced = torch.jit.trace(module.eval(), example, check_trace=False)
        return openvino.convert_model(traced, example_input=example)


def pack(network: Any, metadata: Mapping[str, str]) -> bytes:
    """An `openvino.Model` as one file: safetensors with the graph and the constants."""
    import openvino
    from safetensors.numpy import save

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.xml"
        openvino.save_model(network, path, compress_to_fp16=False)
        parts = {"graph": path, "constants": path.with_suffix(".bin")}
        tensors = {name: np.frombuffer(part.read_bytes(), np.uint8) for name, part in parts.items()}
        return bytes(save(tensors, dict(metadata)))


def unpack(data: bytes) -> Any:
    """The `openvino.Model` of a packed one.

    Raises:
        WeightsError: it is none.
    """
    import openvino
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        parts = load(data)
        return openvino.Core().read_model(parts["graph"].tobytes(), openvino.Tensor(parts["constants"]))
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise WeightsError(f"it is no packed OpenVINO network: {error}") from error


def forgo_telemetry() -> None:
    """Keeps OpenVINO's converter from sending telemetry on each conversion.

    It does so from a forked process, which takes seconds and which gRPC's threads do not like. Without the
    package that reports, the converter has a stub of its own in its place.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
