"""Name -> Pipeline: the one place that knows which code builds which model.

Builders are named, not imported: a model's code is loaded when that model is built, so a server of one
task does not pay for the others, and `python -m models.zoo` can fetch weights without loading torch models.
"""

from __future__ import annotations

import argparse
import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from models.errors import WeightsError
from models.pipeline import Pipeline
from models.weights import CATALOGUE, Catalogue, Entry, Store

Builder = Callable[[Entry, Mapping[str, Path]], Pipeline]

BUILDERS: dict[str, str] = {
    "efficientnet_lite0": "models.classification.efficientnet_lite:build",
    "lenet5": "models.classification.lenet:build",
    "torchvision_classifier": "models.classification.torchvision:build",
    "yolo": "models.detection.yolo:build",
    "darknet": "models.detection.darknet:build",
    "torchvision_rcnn": "models.detection.rcnn:build",
    "mtcnn": "models.faces.mtcnn:build",
    "dlib_resnet": "models.faces.resnet:build",
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


def build(name: str, catalogue: Catalogue, store: Store) -> Pipeline:
    """Verifies a model's files and builds its pipeline.

    Raises:
        ModelUnknown: the name is not in the catalogue.
        WeightsError: a file is missing, wrong or does not fit the network.
    """
    entry = catalogue[name]
    pipeline = builder(entry.builder)(entry, store.files(entry))
    if (pipeline.card.name, pipeline.card.task) != (entry.name, entry.task):
        raise WeightsError(f"model {name!r}: the catalogue says {entry.task}, the builder made {pipeline.card.task}")
    return pipeline


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m models.zoo fetch NAME...`: fetches and verifies weights (`make weights`)."""
    parser = argparse.ArgumentParser(prog="python -m models.zoo", description=main.__doc__)
    parser.add_argument("command", choices=["fetch"])
    parser.add_argument("names", nargs="+", help="models of the catalogue")
    parser.add_argument("--catalogue", type=Path, action="append", default=[], help="an operator's own, besides ours")
    parser.add_argument("--cache", type=Path, default=None, help="folder of fetched files")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    catalogue, store = Catalogue((CATALOGUE, *args.catalogue)), Store(args.cache)
    for name in args.names:
        try:
            entry = catalogue[name]
            for role, path in store.fetch(entry).items():
                logging.info("%s: %s %s (%s) verified", name, role, path.name, entry.files[role].source)
        except Exception as exc:  # a command's last word is a message, not a trace
            logging.error("%s", exc)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
