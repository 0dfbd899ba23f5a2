"""The protocol's documents on a model, as JSON has them: metadata, configuration, statistics."""

from __future__ import annotations

import json
from typing import Any, Final

from service import __version__
from service.oip.adapter import PIXELS, ModelAdapter
from service.tasks.task import TensorSpec
from service.telemetry.statistics import Stage, Statistics

VERSION: Final = "1"
"""Of every model: a number in a string, as perf_analyzer wants it. Weights are identified by their digest."""

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


def configuration(adapter: ModelAdapter, max_batch: int) -> Document:
    """`GET v2/models/{model}/config`: Triton's ModelConfig, as far as it says something here.

    Args:
        adapter: the model.
        max_batch: most images of one request. The batches of the device are formed by the batcher.
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
        "max_batch_size": max_batch,
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


def statistics(name: str, figures: Statistics, *, inline: bool) -> Document:
    """One entry of `GET v2/models/stats`. Each image of a request is counted by itself.

    Args:
        name: of the model.
        figures: of all workers.
        inline: images are prepared within their batch, else on their own before it.
    """
    inferences = figures.inferences
    prepare = figures.waited("prepare") if inline else figures.decode.seconds
    compute, output = figures.waited("compute"), figures.waited("postprocess")
    return {
        "name": name,
        "version": VERSION,
        "last_inference": round(figures.last * 1000),
        "inference_count": inferences,
        "execution_count": figures.executions,
        "inference_stats": {
            "success": _spent(inferences, figures.queue.seconds + prepare + compute + output),
            "fail": _spent(figures.failed.count, figures.failed.seconds),
            "queue": _spent(figures.queue.count, figures.queue.seconds),
            "compute_input": _spent(inferences, prepare),
            "compute_infer": _spent(inferences, compute),
            "compute_output": _spent(inferences, output),
            "cache_hit": _spent(0, 0.0),
            "cache_miss": _spent(0, 0.0),
        },
        "batch_stats": [
            {"batch_size": size}
            | {key: _spent(batches.count, batches.seconds[stage]) for key, stage in _STAGES.items()}
            for size, batches in sorted(figures.sizes.items())
        ],
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
