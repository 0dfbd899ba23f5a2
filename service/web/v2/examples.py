"""Examples of the Open Inference Protocol's answers, by what follows `/v2` in their routes."""

from __future__ import annotations

from typing import Any

from service.oip.documents import SERVER, model_statistics
from service.telemetry.statistics import Batches, Spent, Statistics

FIGURES = Statistics(
    last=1_795_420_800.0,
    sizes={2: Batches(6, {"prepare": 0.004, "compute": 0.009, "postprocess": 0.001})},
    decode=Spent(12, 0.007),
    queue=Spent(12, 0.002),
)
STATISTICS = {"model_stats": [model_statistics("lenet5", FIGURES, inline=False)]}
EXAMPLES: dict[str, Any] = {
    "": SERVER,
    "/health/live": {"live": True},
    "/health/ready": {"ready": True},
    "/repository/index": [{"name": "lenet5", "version": "1", "state": "READY", "reason": ""}],
    "/models/stats": STATISTICS,
    "/models/{model}": {
        "name": "lenet5",
        "versions": ["1"],
        "platform": "openvino",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}],
    },
    "/models/{model}/ready": {"name": "lenet5", "ready": True},
    "/models/{model}/config": {
        "name": "lenet5",
        "platform": "openvino",
        "backend": "openvino",
        "max_batch_size": 32,
        "input": [{"name": "image", "data_type": "TYPE_STRING", "dims": [1]}],
        "output": [{"name": "scores", "data_type": "TYPE_FP32", "dims": [10]}],
        "dynamic_batching": {},
        "parameters": {"task": {"string_value": "classify"}},
    },
    "/models/{model}/stats": STATISTICS,
    "/models/{model}/infer": {
        "model_name": "lenet5",
        "model_version": "1",
        "id": "mine-1",
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 3], "data": [0.98, 0.01, 0.01]}],
    },
}
