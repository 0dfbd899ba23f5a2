"""The interface between the models and the service: preprocess -> module -> postprocess.

A pipeline binds a network to the preprocessing its weights were trained with. The serving code runs
the three steps in three places (a thread pool, the device, a thread of the device), batches the middle
one and depends on nothing else of a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from models.errors import ParameterInvalid, WeightsError

if TYPE_CHECKING:  # the process that verifies weights and starts the workers needs neither
    from torch import nn

    from models.image import Image

Inputs = tuple[NDArray[Any], ...]
"""One item's arrays, in the order in which a module takes them; a batch stacks each over its items."""


class Kind(StrEnum):
    """What a model is for. The value is the public name in URLs, metrics and model cards."""

    CLASSIFY = "classify"
    DETECT = "detect"
    FACES = "faces"
    EMBED = "embed"
    STYLE = "style"


@dataclass(frozen=True, slots=True)
class Prepared:
    """One item, ready to be stacked into a batch.

    Attributes:
        inputs: the module's inputs; the first is the image, uint8 [H, W, 3], RGB, for most. Items whose
            inputs have the same shapes share a batch, so a pipeline gives few shapes.
        context: what `postprocess` needs to undo the geometry and to apply this request's options.
    """

    inputs: Inputs
    context: Any

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the inputs: what the items of a batch have in common."""
        return tuple([array.shape for array in self.inputs])


@dataclass(frozen=True, slots=True)
class Template:
    """How a face lies in the crop that an embedding network takes.

    Attributes:
        side: of the square crop, pixels.
        landmarks: where a mean face's five landmarks are, (x, y) in pixels of the crop from its upper left
            corner, in the order of `models.faces.result.Face.landmarks`.
    """

    side: int
    landmarks: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class FaceSpace:
    """What an embedding network's vectors are and how they are compared.

    Attributes:
        dimensions: of a vector.
        threshold: largest distance of two faces of one person, unless a request names another.
        template: what the network's crops look like.
        metric: of the distance.
    """

    dimensions: int
    threshold: float
    template: Template
    metric: str = "euclidean"


@dataclass(frozen=True, slots=True)
class Style:
    """The public description of a style.

    Attributes:
        name: unique in a network; what a request names.
        title: of the painting.
        artist: who painted it, or nothing where that is unknown.
        thumbnail: the painting as a small JPEG, or nothing.
    """

    name: str
    title: str
    artist: str = ""
    thumbnail: bytes = b""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A verified file and its digest."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Card:
    """The public description of a model (`GET /v1/models/{name}`).

    Attributes:
        name: the public name, unique in the catalogue.
        task: what the model is for.
        license: SPDX identifier, or words, of the weights.
        sha256: hex digest of the weights file that was loaded.
        labels: class names by index; empty where there are none.
        input: height, width in pixels of the network's input (None where it varies).
        details: anything else worth showing: source, metrics, thresholds. No code reads it.
        face_space: of a network that embeds faces; None for others.
        features: length of the vector by which a classifier distinguishes images; None for others.
        crop_fraction: of the image's shorter side that the centre crop of a classifier shows.
    """

    name: str
    task: Kind
    license: str
    sha256: str
    labels: tuple[str, ...] = ()
    input: tuple[int, int] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    face_space: FaceSpace | None = None
    features: int | None = None
    crop_fraction: float = 1.0

    @property
    def space(self) -> FaceSpace:
        """As `face_space`.

        Raises:
            ParameterInvalid: the model does not embed faces (parameter ``embedder``).
        """
        if self.face_space is None:
            raise ParameterInvalid("embedder", f"the model {self.name} does not embed faces")
        return self.face_space


RunStage = Callable[[NDArray[Any]], tuple[NDArray[Any], ...]]
"""A stage as `postprocess` calls it: items [M, *shape] -> arrays whose first dimension is M."""


def eager(module: nn.Module, *inputs: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Runs a module as it is, in float32 on the CPU: the reference of every executor.

    Args:
        module: as `Pipeline.module`, or of a stage.
        inputs: stacked, each [N, ...].

    Returns:
        its outputs, each [N, ...].
    """
    import torch

    with torch.inference_mode():
        outputs = module(*(torch.from_numpy(one) for one in inputs))
    return tuple(one.numpy() for one in ((outputs,) if isinstance(outputs, torch.Tensor) else outputs))


Build = Callable[[], "nn.Module"]
"""Builds a network; imports torch."""


@dataclass(frozen=True)
class Stage:
    """A small network that a pipeline's `postprocess` calls itself, on a number of items that varies.

    Attributes:
        build: of `module`.
        shape: of one item.
    """

    build: Build
    shape: tuple[int, ...]

    @cached_property
    def module(self) -> nn.Module:
        """float32 Tensor[M, *shape] -> tuple of Tensors whose first dimension is M; in eval mode."""
        return self.build().eval().requires_grad_(False)

    def run(self, items: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """The module as it is, where no executor has compiled it."""
        return eager(self.module, items)


class Pipeline(ABC):
    """One servable model.

    A pipeline declares its abilities by attributes with defaults; its class is never inspected.

    Attributes:
        card: its public card.
        build: of `module`.
        shapes: of the image inputs, to warm up before the model is ready.
        min_side: shortest side in pixels that a decoder may reduce an image to; None: full resolution.
        exportable: whether the module has no Python branching on data, so that it can be traced, exported and
            captured. One that is not runs as plain Torch.
        dynamic_size: whether a trace made with one size of image is right for every other.
        stages: small networks by name that `postprocess` calls itself; see `with_stages`.
        explainable: whether it has an `explainer`.
        layered: whether `module` consists of layers that can be looked at, as no exported graph does.
        takes_pixels: whether the network's input is a plain image of one fixed size, so that `prepare_tensor`
            may be called.
        smallest_face: of a face detector: the smallest face that it finds, as a share of the longer side of
            what it is given; 0 where that is not known.
        large_face: of a face detector: the smallest face that it finds by `LargeFaceOptions`, as a share
            likewise; 0: it knows no such look, which takes a part of the work.
        face_tiles: of a face detector: the most parts of one image that are looked at for small faces.
        styles: of a style network; the first is its default.
        perceptual: the file of a network whose features separate content and style; None for others.
        convert: gives the network as an `openvino.Model` with the inputs and outputs of `module`, its batch
            free or `batch`; None: an executor traces `module`.
        batch: images that the network always takes at once; an executor pads to it. 0: any number.
        runtime: what runs `module`: ``torch`` itself, or ``onnxruntime`` within it.
        identity: digest of everything that the networks depend on: files, options, code; empty: unknown, so
            nothing that is made of them may be kept.
        precisions: besides float32, those that have passed the model's gates (see `models.quantize`):
            ``int8`` and ``bfloat16`` of a CPU's, ``float16`` of a GPU's.
        stage_precisions: the same for `stages`.
        quantized: the verified file of an int8 network that takes the place of `module`, see
            `models.ir.convert.unpack`.
        channels_last: whether the module's convolutions are given tensors whose channels lie together in
            memory, as a GPU has them; not where most of its other layers give another layout.
    """

    card: Card
    build: Build
    shapes: Sequence[tuple[int, int, int]]
    min_side: int | None = None
    exportable: bool = True
    dynamic_size: bool = False
    stages: Mapping[str, Stage] = MappingProxyType({})
    explainable: bool = False
    layered: bool = True
    takes_pixels: bool = False
    smallest_face: float = 0.0
    large_face: float = 0.0
    face_tiles: int = 1
    styles: Sequence[Style] = ()
    perceptual: WeightsFile | None = None
    convert: Callable[[], Any] | None = None
    batch: int = 0
    runtime: str = "torch"
    identity: str = ""
    precisions: Sequence[str] = ()
    stage_precisions: Sequence[str] = ()
    quantized: Path | None = None
    channels_last: bool = True

    @cached_property
    def module(self) -> nn.Module:
        """The network, built at its first use, which is when torch is imported.

        It takes as many Tensors as an item has inputs, each [N, ...]; the image is uint8 Tensor[N, H, W, 3],
        RGB, 0..255, which it normalises itself (so one upload per batch is bytes, and the arithmetic is the
        device's). It returns a Tensor or a tuple of Tensors whose first dimension is N. It is in eval mode
        and float32; an executor may change its precision.

        Raises:
            WeightsError: the weights do not fit it; names the model.
        """
        try:
            return self.build().eval().requires_grad_(False)
        except WeightsError as error:
            raise WeightsError(f"model {self.card.name!r}: {error}") from error

    def region(self, image: Image) -> tuple[float, float, float, float]:
        """What the network sees, xyxy in pixels of the upright original; may reach beyond it."""
        return 0.0, 0.0, float(image.width), float(image.height)

    def explainer(self, check: Callable[[], None] = lambda: None) -> Any:
        """What explains its answers by torch, outside of a batch, where it is `explainable`.

        It has `heat_map`, `saliency`, `activations` and `windows`: each takes an image, a label or None (the
        likeliest), and parameters of its own. They raise ParameterInvalid for an unknown label or layer, a
        parameter out of its range, or a network that they do not fit.

        Args:
            check: called before every pass of the network; raises what ends the work.
        """
        raise NotImplementedError(f"{self.card.name} cannot be explained")

    @property
    def all_cores(self) -> bool:
        """Whether its networks are worth the memory of others besides, compiled for all cores: not those of
        several canvases, which are large."""
        return len(self.shapes) == 1

    @property
    def examples(self) -> Sequence[Inputs]:
        """An item's inputs for each of `shapes`, to warm up with; those of a module with one input."""
        return [(np.zeros(shape, np.uint8),) for shape in self.shapes]

    def rehearsal(self, shape: tuple[int, int, int]) -> Image:
        """An image that takes all of the pipeline's steps, to warm up with; blank, where that does.

        Args:
            shape: of `shapes`.
        """
        from models.image import Image

        return Image(np.zeros(shape, np.uint8), shape[1], shape[0])

    @abstractmethod
    def preprocess(self, image: Image, options: Any = None) -> Prepared:
        """Runs in a thread pool. `options` is the task's frozen options dataclass; None means defaults.

        Raises:
            ParameterInvalid: an option that this model cannot honour, such as an unknown class name.
        """

    def prepare_tensor(self, pixels: NDArray[np.uint8], options: Any = None) -> Prepared:
        """Takes the network's own input, where `takes_pixels`; nothing is cropped, resized or turned.

        Args:
            pixels: uint8 [H, W, 3], RGB, of the shape that `shapes` names.
            options: as for `preprocess`.

        Raises:
            ParameterInvalid: another shape, or an option as for `preprocess`.
        """
        raise NotImplementedError(f"{self.card.name} takes no pixels")

    @abstractmethod
    def postprocess(self, outputs: tuple[NDArray[Any], ...], contexts: Sequence[Any]) -> list[Any]:
        """Runs once per batch; one frozen result per context.

        Args:
            outputs: the module's, on the host, float32 where they are of any float type; each [N, ...].
            contexts: of the first items of the batch; what lies behind them is padding.
        """

    def with_stages(self, compiled: Mapping[str, RunStage]) -> Self:
        """The same pipeline with compiled networks in place of some of its stages.

        Raises:
            ValueError: it has no stage of that name.
        """
        if compiled:
            raise ValueError(f"{self.card.name} has no stages {', '.join(sorted(compiled))}")
        return self


def check_tensor(pixels: NDArray[np.uint8], shapes: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    """The shape of a network's input, uint8 [H, W, 3].

    Raises:
        ParameterInvalid: it is none of `shapes`, or not of bytes.
    """
    if pixels.shape not in shapes or pixels.dtype != np.uint8:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ParameterInvalid(
            "pixels", f"the pixels are {pixels.dtype} {list(pixels.shape)}, not uint8 {wanted}"
        )
    height, width, channels = pixels.shape
    return height, width, channels
