"""Exported networks on a GPU give what their modules give on the CPU. Skipped where there is no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.errors import WeightsError
from models.pipeline import Kind
from service.engine.executor import make_executor
from service.settings import Settings
from tests.models.exported.files import Classifier, export, served
from tests.models.exported.test_files import LABELS, OPTIONS, images, normalised

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


class Gridded(nn.Module):
    """Makes a constant while it runs, whose device the exported graph names; and views its features."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Classifier()

    def forward(self, inputs: Tensor) -> Tensor:
        grid = torch.arange(5, dtype=torch.float32, device=inputs.device)
        features = self.network.layers[0](inputs)
        mean = features.view(features.shape[0], -1).mean(1, keepdim=True)
        logits: Tensor = self.network(inputs) + grid * mean
        return logits


def executor(pipeline: Any) -> Any:
    return make_executor(pipeline, Settings(device="cuda", workers=1))


@pytest.mark.parametrize(("network", "suffix"), [(Classifier, "pt2"), (Classifier, "pt"), (Gridded, "pt2")])
def test_the_modules_own_answer(network: type[nn.Module], suffix: str, tmp_path: Path) -> None:
    module = network()
    pipeline = served(Kind.CLASSIFY, export(module, tmp_path / f"mine.{suffix}", (3, 48, 64)), **OPTIONS)
    run = executor(pipeline)
    assert (run.name, run.precision) == ("torch", "float32")
    prepared = [pipeline.preprocess(image) for image in images(3)]
    run.warm(prepared[0].inputs, [1, 2, 4])  # CUDA graphs
    with torch.inference_mode():
        wanted = module(torch.stack([normalised(image.pixels, OPTIONS) for image in images(3)])).softmax(1)
    for count in (1, 2, 3):
        outputs = run.run([item.inputs for item in prepared[:count]])
        results = pipeline.postprocess(outputs, [item.context for item in prepared[:count]])
        np.testing.assert_allclose([result.scores for result in results], wanted[:count], atol=1e-3)


def test_onnx_needs_onnx_runtime_with_cuda(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = export(Classifier(), tmp_path / "mine.onnx", (3, 48, 64))
    pipeline = served(Kind.CLASSIFY, path, **OPTIONS)
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(
            WeightsError, match=r"mine\.onnx needs ONNX Runtime with CUDA: install onnxruntime-gpu"
        ):
            executor(pipeline)
        return
    run = executor(pipeline)
    (image,) = images(1)
    prepared = pipeline.preprocess(image)
    (result,) = pipeline.postprocess(run.run([prepared.inputs]), [prepared.context])
    assert len(result.labels) == len(LABELS)
