"""Every transport tells the same parameters of a task: those that `python -m service.tasks` prints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from service.tasks import TASKS
from service.tasks.__main__ import main, values
from service.tasks.task import Task
from tests.service.transports import Transports, open_transports, pipeline, style_pipeline

BY_NAME = {task.name: task for task in TASKS}
FORMAT = "format"
"""Of the image that a task answers: over HTTP it is what the client accepts."""


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    with open_transports([pipeline("lenet5"), pipeline("yolo-person"), style_pipeline()]) as transports:
        yield transports


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, tuple[str, str, str]]]:
    """By task and parameter: values, default, meaning."""
    main()
    found: dict[str, dict[str, tuple[str, str, str]]] = {task: {} for task in BY_NAME}
    for line in capsys.readouterr().out.splitlines()[2:]:
        task, name, shown, default, meaning = re.split(r" \| ", line.removeprefix("| ").removesuffix(" |"))
        found[task.strip("`")][name.strip("`")] = shown, default.strip("`"), meaning
    return found


def told(schema: dict[str, Any], description: str) -> tuple[str, str, str]:
    default = schema.get("default")
    return values(schema), "" if default is None else str(default), description


def test_openapi(transports: Transports, printed: dict[str, dict[str, tuple[str, str, str]]]) -> None:
    document = transports.http("GET", "/openapi.json").json()
    for task in TASKS:
        operation = document["paths"][f"/v1/{task.path}"]["post"]
        found = {
            one["name"]: told(one["schema"], one["description"])
            for one in operation.get("parameters", ())
            if one["in"] == "query"
        }
        assert found.keys() == printed[task.name].keys()
        for name, (shown, default, meaning) in found.items():
            assert (shown, meaning) == (printed[task.name][name][0], printed[task.name][name][2])
            assert re.sub(r"[\[\]()']", "", default) == re.sub(r"[\[\]()']", "", printed[task.name][name][1])


def fields(message: Descriptor, task: Task[Any, Any]) -> set[str]:
    body = () if task.body is None else tuple(task.body.model_fields)
    found: set[str] = set()
    for field in message.fields:
        if field.name in (*task.images, *body, FORMAT):
            continue
        if field.message_type is None:
            found.add(field.name)
        else:  # the parameters of a task that this one runs
            found |= {f"{field.name}.{name}" for name in fields(field.message_type, BY_NAME[field.name])}
    return found


def test_grpc_reflection(transports: Transports, printed: dict[str, dict[str, tuple[str, str, str]]]) -> None:
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(transports.channel))
    service = pool.FindServiceByName("lynceus.v1.Vision")
    for task in TASKS:
        request = service.FindMethodByName(task.method).input_type
        assert fields(request, task) == printed[task.name].keys()
        assert (FORMAT in request.fields_by_name) == (task.draw is not None)


def test_open_inference(transports: Transports, printed: dict[str, dict[str, tuple[str, str, str]]]) -> None:
    seen = set()
    for model in ("lenet5", "yolo-person", "styles"):
        configuration = transports.http("GET", f"/v2/models/{model}/config").json()
        parameters = configuration["parameters"]["request_parameters"]["string_value"]
        for name, properties in json.loads(parameters).items():
            seen.add(name)
            tensors = BY_NAME[name].tensors
            assert tensors is not None
            known = {key for key in printed[name] if key not in (tensors.model, *tensors.fixed)}
            assert {key for key in properties if key != FORMAT} == known
            for key in known:
                assert values(properties[key]) == printed[name][key][0]
                assert properties[key]["description"] == printed[name][key][2]
    assert seen == {"classify", "detect", "stylize"}
