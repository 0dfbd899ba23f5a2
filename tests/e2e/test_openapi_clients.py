"""A client that is generated from the document, and requests that are, against a real server."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks

from tests.paths import ROOT
from tests.server import Server

pytestmark = pytest.mark.e2e

PHOTO = ROOT / "service" / "web" / "ui" / "sample-astronaut.jpg"
CAT = ROOT / "service" / "web" / "ui" / "sample-cat.jpg"


@pytest.fixture(scope="module")
def package(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of the generated package."""
    folder = tmp_path_factory.mktemp("generated")
    document = folder / "openapi.json"
    document.write_bytes(httpx.get(f"{server.url}/openapi.json").content)
    generator = Path(sys.executable).with_name("openapi-python-client")
    command = [
        generator,
        "generate",
        "--path",
        document,
        "--meta",
        "none",
        "--output-path",
        folder / "made_client",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "duplicate models" not in done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    yield "made_client"
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def made(package: str, server: Server) -> Iterator[Any]:
    with importlib.import_module(package).Client(base_url=server.url) as client:
        yield client


def part(package: str, name: str) -> Any:
    return importlib.import_module(f"{package}.{name}")


def image(package: str, path: Path) -> Any:
    return part(package, "types").File(io.BytesIO(path.read_bytes()), path.name, "image/jpeg")


def test_one_image_and_two(package: str, made: Any) -> None:
    classify, models = part(package, "api.classify.classify"), part(package, "models")
    one = classify.sync(
        client=made, body=models.ClassifyFilesBody(image=[image(package, CAT)], top_k=2), top_k=2
    )
    assert isinstance(one, models.ClassifyAnswer)
    assert "cat" in one.labels[0].label or "tabby" in one.labels[0].label
    assert len(one.labels) == 2
    both = [image(package, CAT), image(package, PHOTO)]
    two = classify.sync(client=made, body=models.ClassifyFilesBody(image=both), top_k=2)
    assert isinstance(two, models.ResultsClassifyAnswer)
    assert [type(result) for result in two.results] == [models.ClassifyAnswer] * 2
    raw = classify.sync(client=made, body=image(package, CAT), top_k=2)
    assert raw.labels[0].label == one.labels[0].label


def test_boxes_and_faces(package: str, made: Any) -> None:
    models = part(package, "models")
    detect = part(package, "api.detect.detect")
    answer = detect.sync(client=made, body=models.DetectFilesBody(image=[image(package, PHOTO)]))
    assert isinstance(answer, models.DetectAnswer)
    verify = part(package, "api.faces.faces_verify")
    both = models.FacesVerifyFilesBody(a=image(package, PHOTO), b=image(package, PHOTO))
    assert verify.sync(client=made, body=both).verified is True


def test_a_problem(package: str, made: Any) -> None:
    classify, models = part(package, "api.classify.classify"), part(package, "models")
    problem = classify.sync(client=made, body=image(package, CAT), top_k=0)
    assert isinstance(problem, models.ProblemAnswer)
    assert (problem.code, problem.parameter) == ("parameter_invalid", "top_k")


def test_generated_requests_get_documented_answers(server: Server) -> None:
    """No answer of 500 or that the document does not have, whatever the requests are made of."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [one.ok() for one in schema.get_all_operations()]
    assert len(operations) > 20
    rules = [
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]

    @settings(
        max_examples=80,
        deadline=None,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def send(data: st.DataObject) -> None:
        operation = data.draw(st.sampled_from(operations))
        if operation.path.endswith("/events"):  # an answer without an end
            return
        case = data.draw(operation.as_strategy())
        answer = case.call_and_validate(checks=rules, timeout=60, session=session)
        assert answer.status_code not in (500, 501, 502), answer.text
        if answer.status_code == 202:
            session.delete(server.url + answer.headers["location"][0])

    with requests.Session() as session:
        send()
