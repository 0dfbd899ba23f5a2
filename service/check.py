"""`python -m service.check [--unmade] [MODEL ...]`: builds models as a worker does and runs each once.

The process that starts the workers calls it for models of an operator's own files: what is wrong with one is
reported in one line, before there are workers, which would be restarted for ever. It also leaves the models'
OpenVINO networks in the cache, so that workers need not make them, which takes torch; with ``--unmade`` (as
in `make weights`) it does that alone, for models whose networks are not there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from models import registry
from models.errors import ModelError
from models.weights import Catalogue, Store, standard_catalogue
from service.engine.executor import make_executor, openvino_runs, pick_device
from service.settings import Settings, SettingsError, load


def check(name: str, catalogue: Catalogue, store: Store, settings: Settings) -> None:
    """Builds a model, compiles it for its device and runs a blank image of each of its shapes through it.

    Raises:
        ModelError: its entry or a file is wrong.
        Exception: whatever the network raised.
    """
    pipeline = registry.build(name, catalogue, store)
    executor = make_executor(pipeline, settings, store.networks)
    pipeline = pipeline.with_stages(executor.stages)
    entry = catalogue[name]
    most = settings.batch_limit(False, entry.cpu_batch) if executor.name == "openvino" else 1
    for example in pipeline.examples:
        executor.warm(example, [min(most, entry.max_batch or most), 1])  # each size of a batch is a network
    prepared = pipeline.preprocess(pipeline.rehearsal(pipeline.shapes[0]))
    pipeline.postprocess(executor.run([prepared.inputs]), [prepared.context])
    if executor.name == "openvino":
        store.networks.mark(name, (pipeline.identity, settings.precision))


def main(arguments: Sequence[str] | None = None) -> int:
    """A failure is one line on the standard output (libraries write to the other) and status 1."""
    try:
        settings = load()
        catalogue, store = standard_catalogue(settings.catalogue), Store(settings.weights_dir)
        given = list(sys.argv[1:] if arguments is None else arguments)
        names = [name for name in given if name != "--unmade"] or settings.models
        if "--unmade" in given:
            on_openvino = openvino_runs(settings, pick_device(settings.device))
            names = registry.unmade(names, catalogue, store, settings.precision) if on_openvino else []
        for name in names:
            try:
                check(name, catalogue, store, settings)
            except ModelError:
                raise
            except Exception as error:  # a library's: of a network that converts and does not run
                reason = " ".join(str(error).split())[:300]
                lacking = isinstance(error, ModuleNotFoundError) and error.name in ("torch", "torchvision")
                remedy = "; `make weights` with requirements-gpu.lock makes its networks" if lacking else ""
                print(f"model {name!r}: {type(error).__name__}: {reason}{remedy}")
                return 1
    except (ModelError, SettingsError) as error:
        print(" ".join(str(error).split()))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
