"""Explanations of a classifier, for `Pipeline.explainer`."""

from __future__ import annotations

from typing import Any

from models.classification.explain import grad_cam
from models.classification.maps import HeatMap, WindowMap
from models.classification.pipeline import ClassifierPipeline
from models.classification.windows import windows
from models.image import Image


class ClassifierExplainer:
    """Grad-CAM and sliding windows of one classifier.

    Raises:
        ParameterInvalid: an unknown label, a parameter out of its range, or a network that this does not fit.
    """

    def __init__(self, pipeline: ClassifierPipeline) -> None:
        self._pipeline = pipeline

    def heat_map(self, image: Image, label: str | None = None) -> HeatMap:
        """Grad-CAM of a label, or of the likeliest one."""
        return grad_cam(self._pipeline, image, label)

    def windows(self, image: Image, label: str | None = None, **parameters: Any) -> WindowMap:
        """A label's score in every window of the image, in one pass; see `models.classification.windows`."""
        if label is None:
            label = str(grad_cam(self._pipeline, image).index)
        return windows(self._pipeline, image, label, **parameters)
