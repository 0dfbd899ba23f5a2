"""A model's files: state dicts, their metadata, and labels; every builder reads them here.

Nothing but tensors is unpickled, and whatever a reader raises for an invalid file becomes a
`WeightsError` that names the file.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import safe_open

from models.errors import WeightsError

if TYPE_CHECKING:  # labels and metadata are read without torch
    from torch import Tensor, nn

Network = TypeVar("Network", bound="nn.Module")


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict, on the CPU: safetensors or a file of `torch.save`, by its first bytes.

    Raises:
        WeightsError: the file cannot be read, or holds anything but named tensors.
    """
    import torch
    from safetensors.torch import load_file

    try:
        with path.open("rb") as file:
            safe = file.read(9)[8:] == b"{"  # after the length of its header, which is JSON
            file.seek(0)
            state = load_file(path) if safe else torch.load(file, map_location="cpu", weights_only=True)
        if not all(
            isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
        ):
            raise TypeError("something else than named tensors")
    except Exception as error:  # the readers raise many kinds
        raise WeightsError(f"{path.name} is no state dict: {type(error).__name__}") from error
    return dict(state)


def read_metadata(path: Path, key: str) -> dict[str, Any]:
    """The JSON object that a safetensors file's metadata has under a key.

    Raises:
        WeightsError: the file cannot be read, or has no such object.
    """
    try:
        with safe_open(path, framework="np") as file:
            found = json.loads((file.metadata() or {})[key])
        if not isinstance(found, dict):
            raise TypeError("not an object")
    except Exception as error:  # as above
        raise WeightsError(f"{path.name} has no metadata {key!r}: {type(error).__name__}") from error
    return found


def load_state(
    network: Network, state: Mapping[str, Tensor], source: str, *, name: str = "", assign: bool = False
) -> Network:
    """Puts a state dict into a network; gives the network in float32 and eval mode.

    A batch norm's `num_batches_tracked` may be missing: old files lack it, and evaluation does not read it.

    Args:
        network: the network, changed in place.
        state: parameters and buffers by name.
        source: the file's name, for the error.
        name: what the network is called there; its class's name where empty.
        assign: takes the tensors themselves instead of copying their values, as networks made on the device
            ``meta`` need.

    Raises:
        WeightsError: names are missing or unexpected, or shapes differ; names the first three of each kind.
    """
    import torch

    expected = network.state_dict()
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    misshapen = [
        f"{key} {tuple(state[key].shape)} for {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    complaints = [
        f"{kind}: {', '.join(keys[:3])}" + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        for kind, keys in (
            ("missing", [key for key in expected if key not in state and key not in counters]),
            ("unexpected", [key for key in state if key not in expected]),
            ("wrong shape", misshapen),
        )
        if keys
    ]
    if complaints:
        what = name or type(network).__name__
        raise WeightsError(f"{source} does not fit {what}; {'; '.join(complaints)}")
    complete = {**{key: torch.tensor(0) for key in counters - state.keys()}, **state}
    network.load_state_dict(complete, assign=assign)
    return network.float().eval()


def read_labels(path: Path) -> tuple[str, ...]:
    """Class names by index, one a line of UTF-8; blank lines are left out.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path.name} holds no labels: {type(error).__name__}") from error
    return tuple(line.strip() for line in lines if line.strip())


def require_files(files: Collection[str], roles: Collection[str], what: str) -> None:
    """Checks that an entry names the files that its builder needs.

    Raises:
        WeightsError: a role is missing.
    """
    if missing := sorted(set(roles) - set(files)):
        raise WeightsError(f"{what} needs files.{', files.'.join(missing)}")
