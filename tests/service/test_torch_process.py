"""The process that explains answers: what it says, what it refuses, and what happens when it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from models import registry
from models.errors import ParameterInvalid
from models.image import Image
from models.weights import Store, standard_catalogue
from service.engine.offload import Call
from service.errors import DeadlineExceeded
from service.torch_process import TorchProcess

MODEL = "lenet5"


@pytest.fixture(scope="module")
def torch_process() -> Iterator[TorchProcess]:
    made = TorchProcess(1)
    yield made
    made.close()


def digit() -> Image:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[8:56, 28:36] = 255
    return Image(pixels, 64, 64)


def test_it_answers_as_the_pipeline_itself(torch_process: TorchProcess) -> None:
    pipeline = registry.build(MODEL, standard_catalogue(), Store())
    expected = pipeline.explainer().heat_map(digit(), "1")
    found = torch_process.ask(MODEL, "heat_map", Call(None), digit(), "1")
    assert (found.label, found.region) == (expected.label, expected.region)
    assert found.score == pytest.approx(expected.score, abs=1e-4)
    np.testing.assert_allclose(found.grid, expected.grid, atol=1e-3)
    assert torch_process.ask(MODEL, "windows", Call(None), digit(), None, fraction=1.0).label == "1"
    assert torch_process.ask(MODEL, "filters", Call(None), "features.3").shape[2] == 3
    assert torch_process.ask(MODEL, "layers", Call(None))[0].receptive_field == (5, 5)
    found = torch_process.ask(MODEL, "activations", Call(None), digit(), None, layer="features.0", top=2)
    assert (found.label, len(found.strongest)) == ("1", 2)
    assert torch_process.ask(MODEL, "saliency", Call(None), digit(), "1").grid.max() == 1


def test_its_refusals_name_the_parameter(torch_process: TorchProcess) -> None:
    with pytest.raises(ParameterInvalid, match="no label") as caught:
        torch_process.ask(MODEL, "heat_map", Call(None), digit(), "ten")
    assert caught.value.parameter == "label"


def test_who_leaves_gets_nothing_and_the_next_one_his_own_answer(torch_process: TorchProcess) -> None:
    with pytest.raises(DeadlineExceeded):
        torch_process.ask(MODEL, "heat_map", Call(time.monotonic() - 1), digit(), "7")
    assert torch_process.ask(MODEL, "heat_map", Call(None), digit(), "3").label == "3"


def test_past_the_deadline_the_process_itself_ends_its_work(torch_process: TorchProcess) -> None:
    """It is asked past the worker's own looks at the clock."""

    class Patient(Call):
        def check(self) -> None:
            pass

    with pytest.raises(DeadlineExceeded):
        torch_process.ask(MODEL, "saliency", Patient(time.monotonic() - 1), digit(), "1")
    assert torch_process.ask(MODEL, "heat_map", Call(None), digit(), "3").label == "3"


def test_one_that_has_ended_is_replaced(torch_process: TorchProcess) -> None:
    assert torch_process.ask(MODEL, "heat_map", Call(None), digit(), "3").label == "3"
    assert torch_process._process is not None
    torch_process._process.kill()
    assert torch_process.ask(MODEL, "heat_map", Call(None), digit(), "5").label == "5"
