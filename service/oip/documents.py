"""The protocol's documents, as JSON has them: metadata, configuration, statistics, the repository's index."""

from __future__ import annotations

import json
from typing import Any, Final

from service import __version__
from service.app import Service
from service.engine.runner import State
from service.oip.adapter import PIXELS, VERSION, ModelAdapter, find
from service.tasks.task import TensorSpec
from service.telemetry.statistics import Stage, Statistics, read

Document = dict[str, Any]

SERVER: Final[Document] = {
    "name": "lynceus",
    "version": __version__,
    "extensions": [
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "model_repository",
        "parameters",
        "statistics",
    ],
}
"""`GET v2`."""


def metadata(adapter: ModelAdapter) -> Document:
    """`GET v2/models/{model}`; shapes carry the batch."""
    return {
        "name": adapter.card.name,
        "versions": [VERSION],
        "platform": adapter.runner.executor.name,
        "inputs": [_tensor(spec) for spec in adapter.inputs],
        "outputs": [_tensor(spec) for spec in adapter.outputs.values()],
    }


def configuration(adapter: ModelAdapter) -> Document:
    """`GET v2/models/{model}/config`: Triton's ModelConfig, as far as it says something here.

    `max_batch_size` is that of a request: the batches of the device are formed by the batcher.
    """
    card, executor = adapter.card, adapter.runner.executor
    inputs = [{**_entry(spec), "optional": len(adapter.inputs) > 1} for spec in adapter.inputs]
    for entry in inputs:
        if entry["name"] == PIXELS:
            entry["format"] = "FORMAT_NHWC"
    requests = {adapter.task.name: adapter.schema}
    parameters = {"task": card.task.value, "sha256": card.sha256, "licence": card.license}
    parameters["request_parameters"] = json.dumps(requests)  # as JSON Schema has them, by task
    if card.labels:
        parameters["labels"] = "\n".join(card.labels)
    return {
        "name": card.name,
        "platform": executor.name,
        "backend": executor.name,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": adapter.service.settings.max_images,
        "input": inputs,
        "output": [_entry(spec) for spec in adapter.outputs.values()],
        "instance_group": [
            {
                "name": card.name,
                "kind": "KIND_GPU" if executor.device.startswith("cuda") else "KIND_CPU",
                "count": 1,
            }
        ],
        "dynamic_batching": {},
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }


def index(service: Service, *, ready: bool = False) -> list[Document]:
    """`POST v2/repository/index`: all models, or those that answer now."""
    entries = []
    for name, runner in service.engine.runners.items():
        state, reason = _STATES[runner.state]
        if state == "READY" or not ready:
            entries.append({"name": name, "version": VERSION, "state": state, "reason": reason})
    return entries


def statistics(service: Service, model: str = "", version: str = "") -> Document:
    """`GET v2/models[/{model}]/stats`, of all workers.

    Raises:
        ModelUnknown: there is no such model or version.
    """
    names = [find(service, model, version).card.name] if model else list(service.engine.runners)
    figures, inline = read(service.metrics), service.engine.inline
    return {"model_stats": [model_statistics(name, figures[name], inline=inline) for name in names]}


def model_statistics(name: str, figures: Statistics, *, inline: bool) -> Document:
    """One entry of the statistics. Each image of a request is counted by itself.

    Args:
        name: of the model.
        figures: of all workers.
        inline: images are prepared within their batch, else on their own before it.
    """
    inferences, images, spent = figures.inferences, figures.images, figures.spent
    prepare = figures.waited("prepare") if inline else spent["decode"]
    compute, output = figures.waited("compute"), figures.waited("postprocess")
    return {
        "name": name,
        "version": VERSION,
        "last_inference": round(figures.last * 1000),
        "inference_count": inferences,
        "execution_count": figures.batches.total(),
        "inference_stats": {
            "success": _spent(inferences, spent["queue"] + prepare + compute + output),
            "fail": _spent(images["failed"], spent["failed"]),
            "queue": _spent(images["queue"], spent["queue"]),
            "compute_input": _spent(inferences, prepare),
            "compute_infer": _spent(inferences, compute),
            "compute_output": _spent(inferences, output),
            "cache_hit": _spent(0, 0.0),
            "cache_miss": _spent(0, 0.0),
        },
        "batch_stats": [
            {"batch_size": size}
            | {key: _spent(count, figures.seconds[size, stage]) for key, stage in _STAGES.items()}
            for size, count in sorted(figures.batches.items())
        ],
    }


_STATES: Final = {
    State.STARTING: ("LOADING", ""),
    State.READY: ("READY", ""),
    State.DRAINING: ("UNLOADING", ""),
    State.FAILED: ("UNAVAILABLE", "the model has failed"),
}
_STAGES: Final[dict[str, Stage]] = {
    "compute_input": "prepare",
    "compute_infer": "compute",
    "compute_output": "postprocess",
}


def _tensor(spec: TensorSpec) -> Document:
    return {"name": spec.name, "datatype": spec.datatype, "shape": [-1, *spec.dims]}


def _entry(spec: TensorSpec) -> Document:
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(spec.dims)}


def _spent(count: int, seconds: float) -> Document:
    return {"count": count, "ns": round(seconds * 1e9)}
