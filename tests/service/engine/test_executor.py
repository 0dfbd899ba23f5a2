"""Executors agree with each other, and an answer does not depend on its batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import registry
from models.image import decode
from models.pipeline import Inputs, Pipeline
from models.weights import Catalogue, Store
from service.engine.executor import (
    Executor,
    is_device_lost,
    is_out_of_memory,
    make_executor,
    pick_device,
)
from service.engine.openvino_executor import OpenVINOExecutor, choose
from service.engine.torch_executor import TorchExecutor
from service.settings import Precision, Settings
from tests.paths import ROOT, SHARED, needs_shared
from tests.service.doubles import SHAPE, MeanPipeline


@pytest.fixture(scope="module")
def lite() -> Pipeline:
    return registry.build("efficientnet-lite0", Catalogue(), Store())


@pytest.fixture(scope="module")
def pictures(lite: Pipeline) -> list[NDArray[np.uint8]]:
    paths: list[Path] = sorted((SHARED / "data" / "imagenet-sample").glob("*.jpg"))[::4]
    return [lite.preprocess(decode(path.read_bytes(), min_side=lite.min_side)).inputs[0] for path in paths]


def probabilities(executor: Executor, pictures: list[NDArray[np.uint8]], size: int) -> NDArray[np.float32]:
    items = [(picture,) for picture in pictures]
    parts = [executor.run(items[start : start + size])[0] for start in range(0, len(items), size)]
    return np.concatenate(parts)


@needs_shared
def test_torch_and_openvino_agree_on_50_pictures(lite: Pipeline, pictures: list[NDArray[np.uint8]]) -> None:
    assert len(pictures) == 50
    eager = probabilities(TorchExecutor(lite, "cpu"), pictures, 8)
    compiled = probabilities(OpenVINOExecutor(lite, 2, Precision.FLOAT32), pictures, 8)
    assert (eager.argmax(1) == compiled.argmax(1)).all()
    assert np.abs(eager - compiled).max() < 1e-3


@needs_shared
@pytest.mark.parametrize(
    ("kind", "precision", "tolerance"),
    [
        # other batch sizes pick other kernels, which add in another order
        ("torch", Precision.FLOAT32, 1e-5),
        ("openvino", Precision.FLOAT32, 1e-5),
        ("openvino", Precision.BFLOAT16, 0.03),
        ("openvino", Precision.INT8, 0.03),
    ],
)
def test_an_answer_does_not_depend_on_its_batch(
    kind: str, precision: Precision, tolerance: float, lite: Pipeline, pictures: list[NDArray[np.uint8]]
) -> None:
    executor: Executor = (
        TorchExecutor(lite, "cpu") if kind == "torch" else OpenVINOExecutor(lite, 2, precision)
    )
    some = pictures[:11]
    alone = probabilities(executor, some, 1)
    for size in (3, 8):  # and what is left over: 2 and 3
        assert np.abs(probabilities(executor, some, size) - alone).max() < tolerance


def filled(value: int) -> Inputs:
    return (np.full(SHAPE, value, np.uint8),)


def test_results_of_one_run_outlive_the_next() -> None:
    executor = OpenVINOExecutor(MeanPipeline(), threads=1)
    first = executor.run([filled(10)])[0]
    executor.run([filled(200)])
    assert first.tolist() == [[10, 10, 10]]


def test_several_outputs_keep_their_order() -> None:
    for executor in (TorchExecutor(MeanPipeline(), "cpu"), OpenVINOExecutor(MeanPipeline(), threads=1)):
        executor.warm(filled(0), [1, 2])
        mean, zero = executor.run([filled(value) for value in (1, 2, 3)])
        assert mean[:, 0].tolist() == [1, 2, 3]
        assert zero.tolist() == [[0], [0], [0]]


class Weighted(nn.Module):
    """uint8 [N, 8, 8, 3] and float32 [N, 3] -> mean per channel, weighted, [N], and the weights."""

    def forward(self, images: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return (images.float().mean(dim=(1, 2)) * weights).sum(1), weights


@pytest.mark.parametrize("kind", ["torch", "openvino"])
def test_a_module_may_take_two_inputs(kind: str) -> None:
    executor: Executor = (
        TorchExecutor(MeanPipeline(module=Weighted()), "cpu")
        if kind == "torch"
        else OpenVINOExecutor(MeanPipeline(module=Weighted()), threads=1)
    )
    executor.warm((np.zeros(SHAPE, np.uint8), np.zeros(3, np.float32)), [1, 2])
    rng = np.random.default_rng(0)
    items = [(rng.integers(0, 256, SHAPE, np.uint8), rng.random(3, dtype=np.float32)) for _ in range(5)]
    sums, weights = executor.run(items)
    expected = [float(image.mean(axis=(0, 1)) @ weight) for image, weight in items]
    np.testing.assert_allclose(sums, expected, rtol=1e-5)
    np.testing.assert_array_equal(weights, [weight for _, weight in items])


def test_the_choice_of_executor() -> None:
    pipeline = MeanPipeline()
    assert make_executor(pipeline, Settings(device="cpu")).name == "openvino"
    assert make_executor(pipeline, Settings(device="cpu", executor="torch")).name == "torch"
    with pytest.raises(ValueError, match="LYNCEUS_DEVICE=cuda:99"):
        pick_device("cuda:99")
    assert pick_device("cpu") == "cpu"


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"))
    assert not is_out_of_memory(RuntimeError("sizes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))
    assert is_device_lost(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_device_lost(torch.OutOfMemoryError("CUDA error: out of memory"))


def test_converting_a_network_sends_no_report() -> None:
    script = (
        "from service.engine.openvino_executor import OpenVINOExecutor\n"
        "from tests.service.doubles import MeanPipeline, item\n"
        "OpenVINOExecutor(MeanPipeline(), 1).warm(item(0).inputs, [1])\n"
        "from openvino.tools.ovc import convert_impl, telemetry_stub\n"
        "assert convert_impl.tm is telemetry_stub\n"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=ROOT
    )  # nothing has imported openvino there


FAST = ("int8", "bfloat16")


@pytest.mark.parametrize(
    ("asked", "machine", "passed", "quantized", "chosen"),
    [
        ("auto", FAST, FAST, True, "int8"),
        ("auto", ("bfloat16",), FAST, True, "bfloat16"),
        ("auto", (), FAST, True, "float32"),
        ("auto", FAST, ("bfloat16",), False, "bfloat16"),
        ("auto", FAST, (), False, "float32"),
        ("auto", ("int8",), ("bfloat16",), False, "float32"),
        ("int8", (), (), True, "int8"),
        ("int8", FAST, ("bfloat16",), False, "bfloat16"),
        ("bfloat16", (), (), False, "bfloat16"),
        ("float16", (), (), False, "bfloat16"),
        ("float32", FAST, FAST, True, "float32"),
    ],
)
def test_the_precision_is_the_fastest_that_machine_and_gates_allow(
    asked: str, machine: tuple[str, ...], passed: tuple[str, ...], quantized: bool, chosen: str
) -> None:
    assert choose(Precision(asked), passed, machine, quantized=quantized) == chosen
