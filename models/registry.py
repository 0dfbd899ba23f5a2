"""Name -> Pipeline: the one place that maps models to their builders.

Builders are named, not imported: a model's code is loaded when that model is built, so a server of one
task does not load the others.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from models.errors import WeightsError
from models.pipeline import Pipeline
from models.weights import Catalogue, Entry, Store

Builder = Callable[[Entry, Mapping[str, Path]], Pipeline]

BUILDERS: dict[str, str] = {
    "efficientnet_lite": "models.classification.efficientnet:build",
    "lenet5": "models.classification.lenet:build",
    "torchvision_classifier": "models.classification.torchvision:build",
    "efficientdet": "models.detection.efficientdet:build",
    "yolo": "models.detection.yolo:build",
    "darknet": "models.detection.darknet.network:build",
    "torchvision_rcnn": "models.detection.rcnn:build",
    "mtcnn": "models.faces.mtcnn.pipeline:build",
    "dlib_resnet": "models.faces.dlib_resnet:build",
    "export": "models.exported.pipeline:build",
    "style": "models.style.transfer:build",
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
    except WeightsError as error:
        raise WeightsError(f"model {entry.name!r}: {error}") from error
    return pipeline


def build(name: str, catalogue: Catalogue, store: Store) -> Pipeline:
    """Verifies a model's files and builds its pipeline.

    Raises:
        ModelUnknown: the name is not in the catalogue.
        WeightsError: a file is missing, wrong or does not fit the network.
    """
    entry = catalogue[name]
    return build_entry(entry, store.files(entry))
