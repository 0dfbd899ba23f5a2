"""Answers of this service, shortened, for the API's document; a test holds them to the schemas."""

from __future__ import annotations

from typing import Any

DLIB = {"name": "dlib-resnet", "sha256": "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"}
SIZE = {"width": 640, "height": 424}
LANDMARKS = [[442.1, 206.3], [547.6, 205.9], [496.2, 270.4], [448.9, 320.7], [544.0, 321.5]]
FACE = {"box": [366.7, 78.9, 619.6, 424.2], "score": 0.9998, "landmarks": LANDMARKS}
VERDICT = {
    "verified": True,
    "distance": 0.444,
    "similarity": 0.9497,
    "threshold": 0.6,
    "metric": "euclidean",
    "model": DLIB,
}
MODEL = {
    "name": "lenet5",
    "task": "classify",
    "default": False,
    "ready": True,
    "executor": "openvino",
    "device": "cpu",
    "precision": "float32",
    "sha256": "6aa8fa77f92ba2fd3be14dca68f8b8fc0dee1dfa124807908e253975cd087394",
    "licence": "Apache-2.0",
    "input": {"width": 32, "height": 32},
}
JOB = {
    "id": "0f8fad5bd9cb469fa165708674f0bd3e",
    "state": "queued",
    "progress": 0.0,
    "step": 0,
    "steps": 150,
    "eta_seconds": None,
    "losses": None,
    "reason": None,
    "preview": None,
    "result": None,
    "created_at": "2026-11-23T08:00:00.105Z",
    "started_at": None,
    "finished_at": None,
    "expires_at": None,
}
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

_V1: dict[str, Any] = {
    "/v1/classify": {
        "model": "efficientnet-lite0",
        "image": {"width": 768, "height": 576},
        "labels": [
            {"index": 235, "label": "German shepherd", "score": 0.4467},
            {"index": 249, "label": "malamute", "score": 0.1889},
        ],
    },
    "/v1/classify/explain": {
        "model": "efficientnet-lite0",
        "image": {"width": 768, "height": 576},
        "index": 235,
        "label": "German shepherd",
        "score": 0.4467,
        "region": [132.0, 36.0, 636.0, 540.0],
        "heat": [[0.0, 0.12, 0.31], [0.05, 0.84, 1.0], [0.0, 0.4, 0.52]],
    },
    "/v1/detect": {
        "model": "yolo-person",
        "image": SIZE,
        "detections": [
            {"class_id": 0, "label": "person", "score": 0.9201, "box": [193.74, 98.54, 271.48, 381.87]}
        ],
    },
    "/v1/faces/detect": {"model": "mtcnn", "image": SIZE, "faces": [FACE]},
    "/v1/faces/embed": {
        "model": "mtcnn",
        "image": SIZE,
        "faces": [{**FACE, "embedding": [-0.087, 0.112, 0.034], "model": DLIB}],
    },
    "/v1/faces/verify": {**VERDICT, "faces": {"a": FACE, "b": FACE}},
    "/v1/faces/compare": VERDICT,
    "/v1/styles": {
        "styles": [
            {
                "name": "great_wave",
                "title": "The Great Wave off Kanagawa",
                "artist": "Katsushika Hokusai",
                "thumbnail": "/v1/styles/great_wave/thumbnail",
            }
        ]
    },
    "/v1/stylize/jobs": JOB,
    "/v1/jobs/{id}": {
        **JOB,
        "state": "running",
        "progress": 0.4,
        "step": 60,
        "eta_seconds": 11.4,
        "losses": {"content": 0.3114, "style": 0.0921, "variation": 0.0873},
        "preview": "/v1/jobs/0f8fad5bd9cb469fa165708674f0bd3e/preview",
        "started_at": "2026-11-23T08:00:00.412Z",
    },
    "/v1/models": {"models": [MODEL]},
    "/v1/models/{name}": {
        **MODEL,
        "labels": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
        "details": {"architecture": "LeNet-5"},
    },
}

_OF_A_MODEL: dict[str, Any] = {
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

ANSWERS: dict[str, Any] = {
    **_V1,
    "/v2": {
        "name": "lynceus",
        "version": "0.1.0",
        "extensions": ["binary_tensor_data", "classification", "model_configuration", "statistics"],
    },
    "/v2/health/live": {"live": True},
    "/v2/health/ready": {"ready": True},
    "/v2/repository/index": [{"name": "lenet5", "version": "1", "state": "READY", "reason": ""}],
    "/v2/models/stats": STATISTICS,
    **{
        f"/v2/models/{{model}}{version}{path}": example
        for path, example in _OF_A_MODEL.items()
        for version in ("", "/versions/{version}")
    },
}
"""By path, the example of its 200."""

PICTURES = (
    "/v1/detect",
    "/v1/classify/explain",
    "/v1/faces/detect",
    "/v1/stylize",
    "/v1/jobs/{id}/result",
    "/v1/jobs/{id}/preview",
)
"""Routes that answer a picture to `Accept: image/*`."""
