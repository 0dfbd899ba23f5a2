"""What an exported file does not say of itself, as options of a catalogue entry; one class for each task."""

from __future__ import annotations

from dataclasses import dataclass

from models.detection.pipeline import DetectorOptions
from models.options import check_choice, check_range

RESIZES = ("crop", "letterbox", "letterbox-corner", "stretch")
CHANNELS = {"rgb": 3, "bgr": 3, "grey": 1}
DTYPES = ("float32", "float16", "uint8")


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """How an image becomes the network's input: `(byte / scale - mean) / std`, channel by channel.

    Attributes:
        size: height and width of the input, pixels; may be left out where the file says them.
        layout: ``nchw`` or ``nhwc``; empty: as the file says, else ``nchw``.
        dtype: ``float32``, ``float16`` or ``uint8``; empty: as the file says, else ``float32``. A network
            that takes ``uint8`` normalises by itself.
        batch: images that the network always takes at once; 0: as the file says, else any number.
        colour: order of the channels: ``rgb``, ``bgr`` or ``grey`` (one channel).
        scale: what a byte is divided by first.
        mean, std: one for all channels or one for each, in the order of `colour`, in units after `scale`.
        resize: ``crop`` (the centre), ``letterbox`` (the whole image, centred), ``letterbox-corner`` (at the
            upper left) or ``stretch``.
        fraction: of the image that a ``crop`` shows, along the side that limits it; over 0 and at most 1.
        fill: grey of a letterbox's margins.
        interpolation: ``bilinear`` or ``bicubic``.
        outputs: those that are read, in the order that the head names: names, or numbers from 0 on. Empty:
            found by their shapes.

    Raises:
        ValueError: a value out of its range.
    """

    size: tuple[int, ...] = ()
    layout: str = ""
    dtype: str = ""
    batch: int = 0
    colour: str = "rgb"
    scale: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    resize: str = "letterbox"
    fraction: float = 1.0
    fill: int = 114
    interpolation: str = "bilinear"
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.size) not in (0, 2):
            raise ValueError(f"options.size is {list(self.size)}, not [height, width]")
        for side in self.size:
            check_range("size", side, 8, 4096)
        check_choice("layout", self.layout, ("", "nchw", "nhwc"))
        check_choice("dtype", self.dtype, ("", *DTYPES))
        check_range("batch", self.batch, 0, 256)
        check_choice("colour", self.colour, tuple(CHANNELS))
        check_range("scale", self.scale, 1e-6, 1e6)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, CHANNELS[self.colour]):
                raise ValueError(
                    f"options.{name} has {len(values)} numbers, not 1 or {CHANNELS[self.colour]} "
                    f"(colour {self.colour})"
                )
            for value in values:
                check_range(name, value, *((-1e6, 1e6) if name == "mean" else (1e-6, 1e6)))
        check_choice("resize", self.resize, RESIZES)
        check_range("fraction", self.fraction, 0.01, 1)
        check_range("fill", self.fill, 0, 255)
        check_choice("interpolation", self.interpolation, ("bilinear", "bicubic"))


@dataclass(frozen=True, kw_only=True)
class ExportedClassifierOptions(InputOptions):
    """Of a classifier: one output, [N, classes].

    Attributes:
        labels: class names by index; or a file of the role ``labels``, one a line.
        scores: what the output is: ``logits`` (a softmax is applied) or ``probabilities``.
        features: a second output, [N, D], an image's vector for similarity search: its name or number; empty:
            the model gives no vectors.

    Raises:
        ValueError: a value out of its range.
    """

    resize: str = "crop"
    fraction: float = 0.875
    labels: tuple[str, ...] = ()
    scores: str = "logits"
    features: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("scores", self.scores, ("logits", "probabilities"))


@dataclass(frozen=True, kw_only=True)
class ExportedDetectorOptions(InputOptions):
    """Of a detector; see `models.exported.heads` for the heads and what they expect.

    Attributes:
        labels: class names by index, without a background; or a file of the role ``labels``, one a line.
        head: a name of `models.exported.heads.HEADS`; required.
        boxes: the unit of the head's coordinates: ``pixels`` of the input or ``normalized`` (0 to 1); empty:
            as the head has it.
        corners: how two outputs of the head ``ssd`` write a box: ``xyxy``, ``yxyx`` or ``cxcywh``.
        background: the class that is no object: ``first``, ``last`` or ``none``; empty: as the head has it.
        activation: what turns the head's class outputs into scores: ``none``, ``sigmoid`` or ``softmax``;
            empty: as the head has it.
        score_threshold: least score of a detection, unless a request names another; 0 to 1.
        iou_threshold: largest IoU of two boxes of a class, likewise; None: 0.5, and 1 (nothing is suppressed)
            for heads without duplicates.

    Raises:
        ValueError: a value out of its range.
    """

    labels: tuple[str, ...] = ()
    head: str = ""
    boxes: str = ""
    corners: str = "xyxy"
    background: str = ""
    activation: str = ""
    score_threshold: float = DetectorOptions().score_threshold
    iou_threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("boxes", self.boxes, ("", "pixels", "normalized"))
        check_choice("corners", self.corners, ("xyxy", "yxyx", "cxcywh"))
        check_choice("background", self.background, ("", "first", "last", "none"))
        check_choice("activation", self.activation, ("", "none", "sigmoid", "softmax"))
        check_range("score_threshold", self.score_threshold, 0, 1)
        if self.iou_threshold is not None:
            check_range("iou_threshold", self.iou_threshold, 0, 1)


@dataclass(frozen=True, kw_only=True)
class ExportedEmbedderOptions(InputOptions):
    """Of an embedding of aligned faces: one output, [N, dimensions]. `resize` and `fraction` do not apply.

    Attributes:
        normalize: whether each vector is scaled to length 1; False where the network does so itself, or where
            the metric wants its length.
        metric: ``cosine`` (the distance is 1 - cosine, 0 to 2) or ``euclidean``.
        threshold: largest distance of two faces of one person; required.
        template: ``arcface`` (insightface's five points, for crops of 112 or 128 pixels or a multiple), or
            empty: `landmarks`.
        landmarks: ten numbers, x and y in pixels of the crop from its corner: left eye, right eye, tip of the
            nose, left and right corner of the mouth, as seen in the image.

    Raises:
        ValueError: a value out of its range.
    """

    normalize: bool = True
    metric: str = "cosine"
    threshold: float = -1.0
    template: str = "arcface"
    landmarks: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("metric", self.metric, ("cosine", "euclidean"))
        check_choice("template", self.template, ("", "arcface"))
        if self.threshold == -1.0:
            raise ValueError("options.threshold is missing: the largest distance of two faces of one person")
        check_range("threshold", self.threshold, 0, 10)
        if len(self.landmarks) != (0 if self.template else 10):
            raise ValueError(
                f"options.landmarks has {len(self.landmarks)} numbers, not "
                f"{'0 beside a template' if self.template else '10'}"
            )
