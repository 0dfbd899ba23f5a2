"""Options of a visualisation: what an image is to be made for."""

from __future__ import annotations

from pydantic import Field

from models.errors import ParameterInvalid
from models.parameters import Parameters


class VisualizeOptions(Parameters):
    """Options of `models.classification.explain.visualize`: a channel of a layer, or a label."""

    layer: str | None = Field(
        None, description="a layer, as `/v1/models/{name}/layers` names it; the last one if left out"
    )
    channel: int | None = Field(None, ge=0, description="of the layer: its mean activation is raised")
    label: str | None = Field(
        None, description="in place of a channel, a label's name or index: its logit is raised"
    )
    size: int | None = Field(
        None, ge=32, le=512, description="side of the image, pixels; that of the network's input if left out"
    )
    steps: int = Field(128, ge=1, le=2048, description="steps of the optimiser")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="of the start and of the transformations")
    preview_every: int = Field(16, ge=0, le=2048, description="steps between two previews; 0: none")


def check_target(options: VisualizeOptions) -> None:
    """
    Raises:
        ParameterInvalid: both or neither of a channel and a label are given.
    """
    if options.label is not None and (options.channel is not None or options.layer is not None):
        raise ParameterInvalid("label", "give a channel of a layer, or a label, and not both")
    if options.label is None and options.channel is None:
        raise ParameterInvalid("channel", "give a channel of a layer, or a label")
