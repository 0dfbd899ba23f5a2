"""`python -m service.check [MODEL ...]`: builds models as a worker does and runs each once.

The process that starts the workers calls it for models of an operator's own files: what is wrong with one is
reported in one line, before there are workers, which would be restarted for ever.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from pydantic import ValidationError

from models import registry
from models.errors import ModelError
from models.image import Image
from models.weights import Catalogue, Store, standard_catalogue
from service.engine.executor import make_executor
from service.settings import Settings


def check(name: str, catalogue: Catalogue, store: Store, settings: Settings) -> None:
    """Builds a model, compiles it for its device and runs one blank image through it.

    Raises:
        ModelError: its entry or a file is wrong.
        Exception: whatever the network raised.
    """
    pipeline = registry.build(name, catalogue, store)
    executor = make_executor(pipeline, settings)
    height, width, _ = pipeline.shapes[0]
    prepared = pipeline.preprocess(Image(np.zeros((height, width, 3), np.uint8), width, height))
    pipeline.postprocess(executor.run([prepared.inputs]), [prepared.context])


def main(arguments: Sequence[str] | None = None) -> int:
    """A failure is one line on the standard output (libraries write to the other) and status 1."""
    try:
        settings = Settings()
        catalogue, store = standard_catalogue(settings.catalogue), Store(settings.weights_dir)
        for name in (sys.argv[1:] if arguments is None else arguments) or settings.models:
            try:
                check(name, catalogue, store, settings)
            except ModelError:
                raise
            except Exception as error:  # a library's: of a network that converts and does not run
                reason = " ".join(str(error).split())[:300]
                print(f"model {name!r}: {type(error).__name__}: {reason}")
                return 1
    except (ModelError, ValidationError) as error:
        print(" ".join(str(error).split()))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
