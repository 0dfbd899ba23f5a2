"""The calls of the Open Inference Protocol over gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.golden.rpc import INFERENCE, Img, Rpc
from tests.golden.v2_cases import GOOD, MODELS, SIDES, USUAL, WRONG, packed, pixels


def rpc_cases() -> list[Rpc]:
    """Every call over gRPC."""
    cases = [*_rpc_documents(), *_rpc_infer()]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return cases


def _rpc_documents() -> Iterator[Rpc]:
    def call(method: str, **fields: Any) -> Rpc:
        note = " ".join(f"{key}={value}" for key, value in fields.items())
        return Rpc(f"{method} {note}".strip(), INFERENCE, method, [fields])

    for method in ("ServerLive", "ServerReady", "ServerMetadata", "RepositoryIndex"):
        yield call(method)
    yield call("RepositoryIndex", ready=True)
    yield call("RepositoryIndex", repository_name="nothing")
    for model in (*MODELS, "nothing"):
        for method in ("ModelReady", "ModelMetadata", "ModelConfig"):
            yield call(method, name=model)
    for method in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
        yield call(method, name="lenet5", version="2")
    yield call("ModelStatistics", name="nothing")


def _value(value: object) -> dict[str, object]:
    kinds: list[tuple[type, str]] = [
        (bool, "bool_param"),
        (int, "int64_param"),
        (float, "double_param"),
        (str, "string_param"),
    ]
    return {next(name for kind, name in kinds if isinstance(value, kind)): value}


def _message(
    model: str, *names: str, parameters: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    contents = {"bytes_contents": [Img(name) for name in names]}
    return {
        "model_name": model,
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [len(names)], "contents": contents}],
        "parameters": {key: _value(value) for key, value in (parameters or {}).items()},
        **more,
    }


def _rpc_infer() -> Iterator[Rpc]:
    def infer(note: str, message: Any, timeout: float = 60) -> Rpc:
        return Rpc(f"ModelInfer {note}", INFERENCE, "ModelInfer", [message], (), timeout)

    for model, name, parameters in GOOD:
        yield infer(f"{model} {name} {parameters}", _message(model, name, parameters=parameters, id="golden"))
    for model, parameters in WRONG:
        yield infer(f"{model} {parameters}", _message(model, "shapes-png", parameters=parameters))
    for model, side in SIDES.items():
        tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, side, side, 3]}
        raw = pixels(side).tobytes()
        yield infer(f"{model} pixels", {"model_name": model, "inputs": [tensor], "raw_input_contents": [raw]})
    typed = {"uint_contents": pixels(32).ravel().tolist()}
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 32, 32, 3]}
    yield infer("typed pixels", {"model_name": "lenet5", "inputs": [{**tensor, "contents": typed}]})
    binary = packed("digit-4")
    entry = {"name": "image", "datatype": "BYTES", "shape": [1]}
    one: dict[str, Any] = {"model_name": "lenet5", "inputs": [entry], "raw_input_contents": [binary]}
    yield infer("raw", one)
    yield infer("of version 1", {**one, "model_version": "1"})
    yield infer("of version 2", {**one, "model_version": "2"})
    yield infer(
        "usual parameters", {**one, "parameters": {key: _value(value) for key, value in USUAL.items()}}
    )
    best = {"name": "scores", "parameters": {"classification": _value(2)}}
    yield infer("classification=2", {**one, "outputs": [best]})
    best = {"name": "scores", "parameters": {"classification": _value("2")}}
    yield infer("classification of a text", {**one, "outputs": [best]})
    yield infer("an unknown output", {**one, "outputs": [{"name": "nothing"}]})
    yield infer("nothing", {})
    yield infer("no inputs", {"model_name": "lenet5"})
    yield infer("two inputs", {**one, "inputs": [entry, entry], "raw_input_contents": [binary, binary]})
    yield infer("more contents", {**one, "raw_input_contents": [binary, binary]})
    yield infer("cut contents", {**one, "raw_input_contents": [binary[:-1]]})
    yield infer("an unknown input", {**one, "inputs": [{**entry, "name": "nothing"}]})
    yield infer("another datatype", {**one, "inputs": [{**entry, "datatype": "FP32"}]})
    yield infer("a negative size", {**one, "inputs": [{**entry, "shape": [-1]}]})
    yield infer("too many images", {**one, "inputs": [{**entry, "shape": [9]}]})
    both = {"bytes_contents": [Img("digit-4")]}
    yield infer("raw and typed", {**one, "inputs": [{**entry, "contents": both}]})
    yield infer("a parameter without a value", {**one, "parameters": {"top_k": {}}})
    yield infer(
        "shared memory", {**one, "inputs": [{**entry, "parameters": {"shared_memory_region": _value("x")}}]}
    )
    yield infer("the second is no image", _message("lenet5", "digit-4", "text-1"))
    yield infer("unknown model", {**one, "model_name": "nothing"})
    yield infer("in no time", one, 0.0001)
    frames = [
        {**one, "id": "1"},
        {**one, "id": "2", "model_name": "nothing"},
        _message("efficientnet-lite0", "shapes-png", parameters={"top_k": 1}, id="3"),
    ]
    yield Rpc("ModelStreamInfer", INFERENCE, "ModelStreamInfer", frames)
