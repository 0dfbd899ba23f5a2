"""The Open Inference Protocol's documents as the API's document shows them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Document(BaseModel):
    """Base: names such as `model_name` are the protocol's."""

    model_config = ConfigDict(protected_namespaces=())


class LiveOut(Document):
    """The process answers."""

    live: bool


class ReadyOut(Document):
    """Every model answers."""

    ready: bool


class ModelReadyOut(Document):
    """The model answers."""

    name: str
    ready: bool


class ErrorOut(Document):
    """Every answer other than 200."""

    error: str


class ServerMetadataOut(Document):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadataOut(Document):
    """A tensor that a model takes or gives; -1 where its shape varies, the batch first."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadataOut(Document):
    """A model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadataOut]
    outputs: list[TensorMetadataOut]


class ConfigOut(Document):
    """A model's configuration; see Triton's `model_config.proto`."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]
    dynamic_batching: dict[str, Any]
    parameters: dict[str, dict[str, str]]


class DurationOut(Document):
    """How often, and how many nanoseconds in all."""

    count: int
    ns: int


class InferenceStatisticsOut(Document):
    """A model's images by outcome and stage."""

    success: DurationOut
    fail: DurationOut
    queue: DurationOut
    compute_input: DurationOut
    compute_infer: DurationOut
    compute_output: DurationOut
    cache_hit: DurationOut
    cache_miss: DurationOut


class BatchStatisticsOut(Document):
    """A model's batches of one size."""

    batch_size: int
    compute_input: DurationOut
    compute_infer: DurationOut
    compute_output: DurationOut


class ModelStatisticsOut(Document):
    """One model since the start."""

    name: str
    version: str
    last_inference: int = Field(description="milliseconds since 1970")
    inference_count: int = Field(description="images")
    execution_count: int = Field(description="batches")
    inference_stats: InferenceStatisticsOut
    batch_stats: list[BatchStatisticsOut]


class StatisticsOut(Document):
    """Models since the start."""

    model_stats: list[ModelStatisticsOut]


class RepositoryEntryOut(Document):
    """A model and its state."""

    name: str
    version: str
    state: str
    reason: str


class InputIn(Document):
    """An input; `parameters.binary_data_size` in place of `data` where its bytes follow the JSON."""

    name: str = Field(examples=["image"])
    shape: list[int]
    datatype: str = Field(examples=["BYTES"])
    parameters: dict[str, Any] = {}
    data: list[Any] = Field([], description="values, nested or flat; elements of BYTES in base64")


class RequestedOutputIn(Document):
    """An output that is asked for."""

    name: str = Field(examples=["scores"])
    parameters: dict[str, Any] = Field({}, description="binary_data, classification")


class InferIn(Document):
    """A request for an inference."""

    id: str = ""
    parameters: dict[str, Any] = {}
    inputs: list[InputIn]
    outputs: list[RequestedOutputIn] = []


class OutputOut(Document):
    """An output; `parameters.binary_data_size` in place of `data` where its bytes follow the JSON."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] = []


class InferOut(Document):
    """The outputs."""

    model_name: str
    model_version: str
    id: str = ""
    outputs: list[OutputOut]


SPENT = {"count": 12, "ns": 9_800_000}
NONE = {"count": 0, "ns": 0}
STATISTICS = {
    "model_stats": [
        {
            "name": "lenet5",
            "version": "1",
            "last_inference": 1_795_420_800_000,
            "inference_count": 12,
            "execution_count": 8,
            "inference_stats": {
                "success": SPENT,
                "fail": NONE,
                "queue": SPENT,
                "compute_input": SPENT,
                "compute_infer": SPENT,
                "compute_output": SPENT,
                "cache_hit": NONE,
                "cache_miss": NONE,
            },
            "batch_stats": [
                {"batch_size": 2, "compute_input": SPENT, "compute_infer": SPENT, "compute_output": SPENT}
            ],
        }
    ]
}
EXAMPLES: dict[str, Any] = {
    "": {
        "name": "lenet5",
        "versions": ["1"],
        "platform": "openvino",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}],
    },
    "/ready": {"name": "lenet5", "ready": True},
    "/config": {
        "name": "lenet5",
        "platform": "openvino",
        "backend": "openvino",
        "max_batch_size": 32,
        "input": [{"name": "image", "data_type": "TYPE_STRING", "dims": [1]}],
        "output": [{"name": "scores", "data_type": "TYPE_FP32", "dims": [10]}],
        "dynamic_batching": {},
        "parameters": {"task": {"string_value": "classify"}},
    },
    "/stats": STATISTICS,
    "/infer": {
        "model_name": "lenet5",
        "model_version": "1",
        "id": "mine-1",
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 3], "data": [0.98, 0.01, 0.01]}],
    },
}
"""Of the answers about one model, by what follows its path."""
