"""Name -> Pipeline: the one place that maps models to their builders.

Builders are named, not imported: a model's code is loaded when that model is built, so a server of one
task does not load the others.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Final, cast

from safetensors import safe_open

from models.errors import WeightsError
from models.pipeline import Pipeline
from models.weights import INT8, Catalogue, Entry, Store

Builder = Callable[[Entry, Mapping[str, Path]], Pipeline]

BUILDERS: dict[str, str] = {
    "efficientnet_lite": "models.builders.efficientnet:build",
    "lenet5": "models.builders.lenet:build",
    "torchvision_classifier": "models.classification.torchvision:build",
    "efficientdet": "models.builders.efficientdet:build",
    "yolo": "models.builders.yolo:build",
    "darknet": "models.detection.darknet.network:build",
    "torchvision_rcnn": "models.detection.rcnn:build",
    "mtcnn": "models.faces.mtcnn.pipeline:build",
    "dlib_resnet": "models.builders.dlib_resnet:build",
    "export": "models.exported.pipeline:build",
    "style": "models.builders.style:build",
}
"""Builder name (as catalogues use it) -> "module:function"."""


def builder(name: str) -> Builder:
    """Imports the function that builds a kind of model.

    Raises:
        WeightsError: no such builder.
    """
    try:
        module, function = BUILDERS[name].split(":")
    except KeyError:
        known = ", ".join(sorted(BUILDERS))
        raise WeightsError(f"no builder named {name!r}; there are: {known}") from None
    return cast(Builder, getattr(importlib.import_module(module), function))


def build_entry(entry: Entry, files: Mapping[str, Path]) -> Pipeline:
    """Builds the pipeline of one entry.

    Args:
        entry: of a catalogue.
        files: role -> verified local file, of all the entry's.

    Raises:
        WeightsError: names the model; a file does not fit, or an option is unknown or out of its range.
    """
    try:
        pipeline = builder(entry.builder)(entry, files)
        if (pipeline.card.name, pipeline.card.task) != (entry.name, entry.task):
            raise WeightsError(f"the catalogue says {entry.task}, the builder made {pipeline.card.task}")
        pipeline.identity = identity(entry)
        pipeline.precisions, pipeline.stage_precisions = entry.precisions, entry.stage_precisions
        pipeline.quantized = files.get(INT8)
        if pipeline.quantized is not None:
            _check_source(pipeline.quantized, entry)
    except WeightsError as error:
        raise WeightsError(f"model {entry.name!r}: {error}") from error
    return pipeline


def identity(entry: Entry) -> str:
    """Digest of everything that an entry's networks depend on; see `Pipeline.identity`."""
    files = sorted((role, file.sha256) for role, file in entry.files.items())
    of_code = _code(BUILDERS[entry.builder].partition(":")[0])
    return hashlib.sha256(repr((of_code, entry.builder, entry.options, files)).encode()).hexdigest()


def unmade(names: Iterable[str], catalogue: Catalogue, store: Store, precision: str) -> list[str]:
    """Of some models those whose OpenVINO networks are not in the store's cache; without torch.

    Args:
        names: of models.
        catalogue: that has them.
        store: with their files.
        precision: the setting.
    """
    return [n for n in names if not store.networks.marked(n, (identity(catalogue[n]), precision))]


@cache
def _code(builder: str) -> str:
    """Digest of the code that the networks of a builder's models depend on."""
    digest = hashlib.sha256()
    for name, source in sorted(sources(builder, "models.ir.network").items()):
        digest.update(f"{name} {len(source)}\n".encode() + source)
    return digest.hexdigest()


APART: Final = re.compile(
    r"models\.(errors|image|ir\.cache|parameters|registry|resample|weights|classification\.explain)(\.|$)"
)
"""Modules that pipelines import and no network depends on."""
_IMPORT: Final = re.compile(rb"^ *(?:from|import) (models[\w.]*)(?: import (\([^)]*|.*))?", re.MULTILINE)
_NAME: Final = re.compile(rb"\w+")
_ROOT: Final = Path(__file__).parent.parent


def sources(*modules: str) -> dict[str, bytes]:
    """The source of modules of `models` and of what they import from it, also within functions, by name;
    without those that are `APART`."""
    found: dict[str, bytes] = {}
    left = list(modules)
    while left:
        name = left.pop()
        if name in found or APART.match(name):
            continue
        path = _ROOT.joinpath(*name.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                found[name] = file.read_bytes()
                for module, names in _IMPORT.findall(found[name]):
                    left += [
                        (module + suffix).decode()
                        for suffix in (b"", *(b"." + n for n in _NAME.findall(names)))
                    ]
    return found


def _check_source(path: Path, entry: Entry) -> None:
    """That an int8 network was made of the entry's own weights.

    Raises:
        WeightsError: it was not.
    """
    with safe_open(path, "np") as file:
        made_of = (file.metadata() or {}).get("weights")
    if made_of != entry.sha256:
        raise WeightsError(
            f"files.{INT8} was made of weights with sha256 {made_of}, files.weights has {entry.sha256}: "
            f"make it again with `python -m models.quantize {entry.name}`, or remove files.{INT8}"
        )


def build(name: str, catalogue: Catalogue, store: Store) -> Pipeline:
    """Verifies a model's files and builds its pipeline.

    Raises:
        ModelUnknown: the name is not in the catalogue.
        WeightsError: a file is missing, wrong or does not fit the network.
    """
    entry = catalogue[name]
    return build_entry(entry, store.files(entry))
