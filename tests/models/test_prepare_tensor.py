"""The networks' own inputs, without decoding: the same answers as for the picture that they came from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.classification.classifier import Classifier
from models.classification.pipeline import ClassifierPipeline
from models.classification.result import ClassifyOptions
from models.detection.pipeline import DetectorPipeline
from models.detection.result import DetectOptions
from models.errors import ParameterInvalid
from models.faces.embedder import EmbedderPipeline
from models.faces.template import SIDE, TEMPLATE
from models.image import Image
from models.pipeline import Card, FaceSpace, Kind, eager

LABELS = ("red", "green", "blue")


class Means(nn.Module):
    """uint8 Tensor[N, H, W, 3] -> the channels' share of the light, Tensor[N, 3]."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean(dim=(1, 2)).softmax(dim=1)


class MeansOfChannels(nn.Module):
    """float Tensor[N, 3, H, W] -> the channels' means as logits, Tensor[N, 3]."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


class Whole(nn.Module):
    """One box for every picture: from (2, 4) to (20, 10), as wide as the canvas goes, surely green."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        boxes = torch.tensor([[[2.0, 4.0, 20.0, 10.0]]]).expand(len(images), 1, 4)
        return boxes, torch.tensor([[[0.1, 0.9, 0.2]]]).expand(len(images), 1, 3)


def classifier() -> ClassifierPipeline:
    card = Card("c", Kind.CLASSIFY, "MIT", "0" * 64, LABELS, (8, 16))
    return ClassifierPipeline(
        card, lambda: Classifier(MeansOfChannels(), (0.0,), (1.0,)), lambda image: image.pixels, min_side=None
    )


def detector() -> DetectorPipeline:
    return DetectorPipeline(Card("d", Kind.DETECT, "MIT", "0" * 64, LABELS, (16, 32)), Whole)


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_a_classifier_gives_all_scores_besides_the_best_labels() -> None:
    pipeline, pixels = classifier(), noise(8, 16, 3)
    items = [
        pipeline.prepare_tensor(pixels, ClassifyOptions(top_k=1)),
        pipeline.preprocess(Image(pixels, 16, 8), ClassifyOptions(top_k=2)),
        pipeline.prepare_tensor(pixels),
    ]
    outputs = eager(pipeline.module, np.stack([item.inputs[0] for item in items]))
    whole, two, usual = pipeline.postprocess(outputs, [item.context for item in items])
    reference = np.exp(pixels.mean((0, 1))) / np.exp(pixels.mean((0, 1))).sum()
    assert whole.scores is not None
    np.testing.assert_allclose(whole.scores, reference, rtol=1e-4)
    assert (whole.scores.dtype, whole.width, whole.height) == (np.float32, 16, 8)
    np.testing.assert_allclose(two.scores, reference, rtol=1e-4)
    np.testing.assert_allclose(usual.scores, reference, rtol=1e-4)
    assert (len(whole.labels), len(two.labels), len(usual.labels)) == (1, 2, 3)
    assert two.labels[0] == whole.labels[0] == usual.labels[0]


def test_a_detectors_boxes_are_in_the_tensors_pixels() -> None:
    pipeline = detector()
    item = pipeline.prepare_tensor(noise(16, 32, 3), DetectOptions(score_threshold=0.5))
    outputs = eager(pipeline.module, item.inputs[0][None])
    (result,) = pipeline.postprocess(outputs, [item.context])
    assert (result.width, result.height) == (32, 16)
    assert [(found.label, found.box) for found in result.items] == [("green", (2.0, 4.0, 20.0, 10.0))]
    with pytest.raises(ParameterInvalid, match="score_threshold"):
        DetectOptions.of({"score_threshold": 2})


def test_an_embedder_takes_chips() -> None:
    pipeline = EmbedderPipeline(
        Card("e", Kind.EMBED, "MIT", "0" * 64, face_space=FaceSpace(3, 0.6, TEMPLATE)), Means
    )
    chip = noise(SIDE, SIDE, 3)
    assert pipeline.prepare_tensor(chip).inputs[0] is chip
    with pytest.raises(ParameterInvalid, match=r"\[150, 150, 3\]"):
        pipeline.prepare_tensor(noise(SIDE, SIDE + 1, 3))


@pytest.mark.parametrize("wrong", [noise(16, 8, 3), noise(8, 16), noise(8, 16, 3).astype(np.float32)])
def test_another_shape_or_type_is_refused(wrong: NDArray[np.uint8]) -> None:
    pipeline = classifier()
    assert pipeline.takes_pixels
    with pytest.raises(ParameterInvalid, match=r"not uint8 \[8, 16, 3\]") as refused:
        pipeline.prepare_tensor(wrong)
    assert refused.value.parameter == "pixels"
