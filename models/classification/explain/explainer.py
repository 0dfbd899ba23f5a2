"""Explanations of a classifier, for `Pipeline.explainer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from models.classification.explain.activations import activations
from models.classification.explain.cam import grad_cam
from models.classification.explain.maps import ActivationMap, HeatMap, WindowMap
from models.classification.explain.saliency import saliency
from models.classification.explain.windows import windows
from models.classification.pipeline import ClassifierPipeline
from models.image import Image


class ClassifierExplainer:
    """What explains one classifier by torch: each method takes the image, and a label or None.

    Args:
        pipeline: of the classifier.
        check: called before every pass of the network; raises what ends the work.

    Raises:
        ParameterInvalid: an unknown label or layer, a parameter out of its range, or a network that this does
            not fit.
    """

    def __init__(self, pipeline: ClassifierPipeline, check: Callable[[], None] = lambda: None) -> None:
        self._pipeline, self._check = pipeline, check

    def heat_map(self, image: Image, label: str | None = None) -> HeatMap:
        """Grad-CAM of a label, or of the likeliest one."""
        return grad_cam(self._pipeline, image, label)

    def saliency(self, image: Image, label: str | None = None) -> HeatMap:
        """Smoothed integrated gradients of the same."""
        return saliency(self._pipeline, image, label, check=self._check)

    def activations(self, image: Image, label: str | None = None, **parameters: Any) -> ActivationMap:
        """The strongest channels of a layer; see `models.classification.explain.activations`."""
        return activations(self._pipeline, image, label, **parameters)

    def windows(self, image: Image, label: str | None = None, **parameters: Any) -> WindowMap:
        """A label's score in every window of the image, in one pass; see `...explain.windows`."""
        if label is None:
            label = str(grad_cam(self._pipeline, image).index)
        return windows(self._pipeline, image, label, **parameters)
