"""Which kind of exported file a file is, by its bytes."""

from __future__ import annotations

import zipfile
from pathlib import Path

from models.errors import WeightsError
from models.exported.network import Network


def open_network(path: Path) -> Network:
    """Reads an exported file, of whichever kind its bytes say.

    Raises:
        WeightsError: it is of none, a pickle, or cannot be served; says what was found.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
        names = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
    except (OSError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path.name} cannot be read: {error}") from error
    members = {name.partition("/")[2] for name in names}
    if "constants.pkl" in members and any(name.startswith("code/") for name in members):
        from models.exported.script import ScriptNetwork

        return ScriptNetwork(path)
    if any(name.startswith("models/") for name in members):
        from models.exported.program import ProgramNetwork

        return ProgramNetwork(path)
    if "data.pkl" in members or head[:1] == b"\x80":
        raise WeightsError(
            f"{path.name} is a pickle (of torch.save), which is not loaded: export the network with "
            "torch.export, torch.jit or torch.onnx"
        )
    if head[8:9] == b"{":
        raise WeightsError(
            f"{path.name} is safetensors: tensors without a network; a builder of that network reads it, "
            "such as torchvision_classifier"
        )
    if names:
        raise WeightsError(f"{path.name} is a zip archive of neither torch.export nor TorchScript")
    from models.exported.onnx import OnnxNetwork

    return OnnxNetwork(path)
