"""What classifiers and detectors take and give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classification.result import Classification, ClassifyOptions
from models.detection.result import Detections, DetectOptions
from service.dataplane import DataPlane
from service.inference.request import Parameters
from service.inference.served import Served, Spec, counts, padded, table
from service.runner import Runner


class ClassifierServed(Served):
    """scores FP32 [N, C]: the probability of every class."""

    def __init__(self, plane: DataPlane, runner: Runner) -> None:
        super().__init__(plane, runner)
        labels = runner.card.labels
        self.outputs = (Spec("scores", "FP32", (len(labels),), labels),)

    def options(self, parameters: Parameters) -> ClassifyOptions:
        return ClassifyOptions(top_k=1, scores=True)

    def collect(self, results: Sequence[Classification]) -> dict[str, NDArray[Any]]:
        return {"scores": np.stack([result.scores for result in results if result.scores is not None])}


class DetectorServed(Served):
    """boxes FP32 [N, K, 4], scores FP32 [N, K], class_ids INT64 [N, K], counts INT64 [N].

    K is that of the picture with the most. Beyond a picture's own count boxes and scores are 0, classes -1.
    """

    outputs = (
        Spec("boxes", "FP32", (-1, 4)),
        Spec("scores", "FP32", (-1,)),
        Spec("class_ids", "INT64", (-1,)),
        Spec("counts", "INT64", ()),
    )

    def options(self, parameters: Parameters) -> DetectOptions:
        classes = parameters.text("classes")
        most = parameters.integer("max_detections")
        return DetectOptions(
            parameters.number("score_threshold"),
            parameters.number("iou_threshold"),
            DetectOptions().max_detections if most is None else most,
            None if classes is None else tuple(name.strip() for name in classes.split(",")),
        )

    def collect(self, results: Sequence[Detections]) -> dict[str, NDArray[Any]]:
        several = [result.items for result in results]
        return {
            "boxes": padded([table([item.box for item in items], 4) for items in several]),
            "scores": padded([table([item.score for item in items]) for items in several]),
            "class_ids": padded(
                [np.array([item.class_id for item in items], np.int64) for items in several], -1
            ),
            "counts": counts(several),
        }
