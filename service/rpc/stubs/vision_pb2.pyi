from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExplainKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPLAIN_KIND_UNSPECIFIED: _ClassVar[ExplainKind]
    EXPLAIN_KIND_CAM: _ClassVar[ExplainKind]
    EXPLAIN_KIND_WINDOWS: _ClassVar[ExplainKind]
    EXPLAIN_KIND_ACTIVATIONS: _ClassVar[ExplainKind]
    EXPLAIN_KIND_SALIENCY: _ClassVar[ExplainKind]
    EXPLAIN_KIND_OCCLUSION: _ClassVar[ExplainKind]

class BoxFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BOX_FORMAT_UNSPECIFIED: _ClassVar[BoxFormat]
    BOX_FORMAT_XYXY: _ClassVar[BoxFormat]
    BOX_FORMAT_XYWH: _ClassVar[BoxFormat]
    BOX_FORMAT_CXCYWH: _ClassVar[BoxFormat]

class FaceRotation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FACE_ROTATION_UNSPECIFIED: _ClassVar[FaceRotation]
    FACE_ROTATION_AUTO: _ClassVar[FaceRotation]
    FACE_ROTATION_NONE: _ClassVar[FaceRotation]

class FaceSelect(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FACE_SELECT_UNSPECIFIED: _ClassVar[FaceSelect]
    FACE_SELECT_LARGEST: _ClassVar[FaceSelect]
    FACE_SELECT_ONLY: _ClassVar[FaceSelect]

class PictureFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PICTURE_FORMAT_UNSPECIFIED: _ClassVar[PictureFormat]
    PICTURE_FORMAT_JPEG: _ClassVar[PictureFormat]
    PICTURE_FORMAT_PNG: _ClassVar[PictureFormat]
    PICTURE_FORMAT_WEBP: _ClassVar[PictureFormat]
EXPLAIN_KIND_UNSPECIFIED: ExplainKind
EXPLAIN_KIND_CAM: ExplainKind
EXPLAIN_KIND_WINDOWS: ExplainKind
EXPLAIN_KIND_ACTIVATIONS: ExplainKind
EXPLAIN_KIND_SALIENCY: ExplainKind
EXPLAIN_KIND_OCCLUSION: ExplainKind
BOX_FORMAT_UNSPECIFIED: BoxFormat
BOX_FORMAT_XYXY: BoxFormat
BOX_FORMAT_XYWH: BoxFormat
BOX_FORMAT_CXCYWH: BoxFormat
FACE_ROTATION_UNSPECIFIED: FaceRotation
FACE_ROTATION_AUTO: FaceRotation
FACE_ROTATION_NONE: FaceRotation
FACE_SELECT_UNSPECIFIED: FaceSelect
FACE_SELECT_LARGEST: FaceSelect
FACE_SELECT_ONLY: FaceSelect
PICTURE_FORMAT_UNSPECIFIED: PictureFormat
PICTURE_FORMAT_JPEG: PictureFormat
PICTURE_FORMAT_PNG: PictureFormat
PICTURE_FORMAT_WEBP: PictureFormat

class Size(_message.Message):
    __slots__ = ("width", "height", "frames")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    frames: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., frames: _Optional[int] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("x1", "y1", "x2", "y2")
    X1_FIELD_NUMBER: _ClassVar[int]
    Y1_FIELD_NUMBER: _ClassVar[int]
    X2_FIELD_NUMBER: _ClassVar[int]
    Y2_FIELD_NUMBER: _ClassVar[int]
    x1: float
    y1: float
    x2: float
    y2: float
    def __init__(self, x1: _Optional[float] = ..., y1: _Optional[float] = ..., x2: _Optional[float] = ..., y2: _Optional[float] = ...) -> None: ...

class Point(_message.Message):
    __slots__ = ("x", "y")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("code", "detail", "parameter")
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    code: str
    detail: str
    parameter: str
    def __init__(self, code: _Optional[str] = ..., detail: _Optional[str] = ..., parameter: _Optional[str] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("image", "model", "top_k")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    top_k: int
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., top_k: _Optional[int] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("index", "label", "score")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    index: int
    label: str
    score: float
    def __init__(self, index: _Optional[int] = ..., label: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class ClassifyReply(_message.Message):
    __slots__ = ("model", "image", "labels")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: Size
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    def __init__(self, model: _Optional[str] = ..., image: _Optional[_Union[Size, _Mapping]] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ...) -> None: ...

class ClassifyFrame(_message.Message):
    __slots__ = ("result", "problem")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    result: ClassifyReply
    problem: Problem
    def __init__(self, result: _Optional[_Union[ClassifyReply, _Mapping]] = ..., problem: _Optional[_Union[Problem, _Mapping]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("image", "model", "label", "kind", "fraction", "score_threshold", "format", "layer", "top")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    label: str
    kind: ExplainKind
    fraction: float
    score_threshold: float
    format: PictureFormat
    layer: str
    top: int
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., label: _Optional[str] = ..., kind: _Optional[_Union[ExplainKind, str]] = ..., fraction: _Optional[float] = ..., score_threshold: _Optional[float] = ..., format: _Optional[_Union[PictureFormat, str]] = ..., layer: _Optional[str] = ..., top: _Optional[int] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("image", "model")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ...) -> None: ...

class EmbedReply(_message.Message):
    __slots__ = ("model", "sha256", "image", "dimensions", "embedding")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    model: str
    sha256: str
    image: Size
    dimensions: int
    embedding: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, model: _Optional[str] = ..., sha256: _Optional[str] = ..., image: _Optional[_Union[Size, _Mapping]] = ..., dimensions: _Optional[int] = ..., embedding: _Optional[_Iterable[float]] = ...) -> None: ...

class Row(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class ScoredBox(_message.Message):
    __slots__ = ("score", "box")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    score: float
    box: Box
    def __init__(self, score: _Optional[float] = ..., box: _Optional[_Union[Box, _Mapping]] = ...) -> None: ...

class Activation(_message.Message):
    __slots__ = ("channel", "mean", "peak", "map")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    PEAK_FIELD_NUMBER: _ClassVar[int]
    MAP_FIELD_NUMBER: _ClassVar[int]
    channel: int
    mean: float
    peak: float
    map: _containers.RepeatedCompositeFieldContainer[Row]
    def __init__(self, channel: _Optional[int] = ..., mean: _Optional[float] = ..., peak: _Optional[float] = ..., map: _Optional[_Iterable[_Union[Row, _Mapping]]] = ...) -> None: ...

class ExplainReply(_message.Message):
    __slots__ = ("model", "image", "index", "label", "score", "region", "heat", "window", "step", "scores", "boxes", "picture", "kind", "note", "layer", "channels", "rows", "columns", "activations")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    HEAT_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: Size
    index: int
    label: str
    score: float
    region: Box
    heat: _containers.RepeatedCompositeFieldContainer[Row]
    window: _containers.RepeatedScalarFieldContainer[float]
    step: _containers.RepeatedScalarFieldContainer[float]
    scores: _containers.RepeatedCompositeFieldContainer[Row]
    boxes: _containers.RepeatedCompositeFieldContainer[ScoredBox]
    picture: bytes
    kind: ExplainKind
    note: str
    layer: str
    channels: int
    rows: int
    columns: int
    activations: _containers.RepeatedCompositeFieldContainer[Activation]
    def __init__(self, model: _Optional[str] = ..., image: _Optional[_Union[Size, _Mapping]] = ..., index: _Optional[int] = ..., label: _Optional[str] = ..., score: _Optional[float] = ..., region: _Optional[_Union[Box, _Mapping]] = ..., heat: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., window: _Optional[_Iterable[float]] = ..., step: _Optional[_Iterable[float]] = ..., scores: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., boxes: _Optional[_Iterable[_Union[ScoredBox, _Mapping]]] = ..., picture: _Optional[bytes] = ..., kind: _Optional[_Union[ExplainKind, str]] = ..., note: _Optional[str] = ..., layer: _Optional[str] = ..., channels: _Optional[int] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ..., activations: _Optional[_Iterable[_Union[Activation, _Mapping]]] = ...) -> None: ...

class DetectRequest(_message.Message):
    __slots__ = ("image", "model", "score_threshold", "iou_threshold", "max_detections", "classes", "box_format", "normalized", "format")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    IOU_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MAX_DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    BOX_FORMAT_FIELD_NUMBER: _ClassVar[int]
    NORMALIZED_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    score_threshold: float
    iou_threshold: float
    max_detections: int
    classes: _containers.RepeatedScalarFieldContainer[str]
    box_format: BoxFormat
    normalized: bool
    format: PictureFormat
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., score_threshold: _Optional[float] = ..., iou_threshold: _Optional[float] = ..., max_detections: _Optional[int] = ..., classes: _Optional[_Iterable[str]] = ..., box_format: _Optional[_Union[BoxFormat, str]] = ..., normalized: _Optional[bool] = ..., format: _Optional[_Union[PictureFormat, str]] = ...) -> None: ...

class Detection(_message.Message):
    __slots__ = ("class_id", "label", "score", "box")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    class_id: int
    label: str
    score: float
    box: Box
    def __init__(self, class_id: _Optional[int] = ..., label: _Optional[str] = ..., score: _Optional[float] = ..., box: _Optional[_Union[Box, _Mapping]] = ...) -> None: ...

class DetectReply(_message.Message):
    __slots__ = ("model", "image", "detections", "picture")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: Size
    detections: _containers.RepeatedCompositeFieldContainer[Detection]
    picture: bytes
    def __init__(self, model: _Optional[str] = ..., image: _Optional[_Union[Size, _Mapping]] = ..., detections: _Optional[_Iterable[_Union[Detection, _Mapping]]] = ..., picture: _Optional[bytes] = ...) -> None: ...

class DetectFrame(_message.Message):
    __slots__ = ("result", "problem")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    result: DetectReply
    problem: Problem
    def __init__(self, result: _Optional[_Union[DetectReply, _Mapping]] = ..., problem: _Optional[_Union[Problem, _Mapping]] = ...) -> None: ...

class DetectFacesRequest(_message.Message):
    __slots__ = ("image", "model", "score_threshold", "min_size", "max_faces", "format", "rotate")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MIN_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_FACES_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    ROTATE_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    score_threshold: float
    min_size: float
    max_faces: int
    format: PictureFormat
    rotate: FaceRotation
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., score_threshold: _Optional[float] = ..., min_size: _Optional[float] = ..., max_faces: _Optional[int] = ..., format: _Optional[_Union[PictureFormat, str]] = ..., rotate: _Optional[_Union[FaceRotation, str]] = ...) -> None: ...

class FaceSearch(_message.Message):
    __slots__ = ("min_face", "rotation")
    MIN_FACE_FIELD_NUMBER: _ClassVar[int]
    ROTATION_FIELD_NUMBER: _ClassVar[int]
    min_face: float
    rotation: int
    def __init__(self, min_face: _Optional[float] = ..., rotation: _Optional[int] = ...) -> None: ...

class Face(_message.Message):
    __slots__ = ("box", "score", "landmarks")
    BOX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    LANDMARKS_FIELD_NUMBER: _ClassVar[int]
    box: Box
    score: float
    landmarks: _containers.RepeatedCompositeFieldContainer[Point]
    def __init__(self, box: _Optional[_Union[Box, _Mapping]] = ..., score: _Optional[float] = ..., landmarks: _Optional[_Iterable[_Union[Point, _Mapping]]] = ...) -> None: ...

class DetectFacesReply(_message.Message):
    __slots__ = ("model", "image", "faces", "picture", "search")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: Size
    faces: _containers.RepeatedCompositeFieldContainer[Face]
    picture: bytes
    search: FaceSearch
    def __init__(self, model: _Optional[str] = ..., image: _Optional[_Union[Size, _Mapping]] = ..., faces: _Optional[_Iterable[_Union[Face, _Mapping]]] = ..., picture: _Optional[bytes] = ..., search: _Optional[_Union[FaceSearch, _Mapping]] = ...) -> None: ...

class EmbedFacesRequest(_message.Message):
    __slots__ = ("image", "model", "embedder", "score_threshold", "min_size", "max_faces", "aligned", "rotate")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EMBEDDER_FIELD_NUMBER: _ClassVar[int]
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MIN_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_FACES_FIELD_NUMBER: _ClassVar[int]
    ALIGNED_FIELD_NUMBER: _ClassVar[int]
    ROTATE_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    embedder: str
    score_threshold: float
    min_size: float
    max_faces: int
    aligned: bool
    rotate: FaceRotation
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., embedder: _Optional[str] = ..., score_threshold: _Optional[float] = ..., min_size: _Optional[float] = ..., max_faces: _Optional[int] = ..., aligned: _Optional[bool] = ..., rotate: _Optional[_Union[FaceRotation, str]] = ...) -> None: ...

class Version(_message.Message):
    __slots__ = ("name", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class EmbeddedFace(_message.Message):
    __slots__ = ("face", "embedding")
    FACE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    face: Face
    embedding: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, face: _Optional[_Union[Face, _Mapping]] = ..., embedding: _Optional[_Iterable[float]] = ...) -> None: ...

class EmbedFacesReply(_message.Message):
    __slots__ = ("model", "image", "embedder", "faces", "search")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDER_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: Size
    embedder: Version
    faces: _containers.RepeatedCompositeFieldContainer[EmbeddedFace]
    search: FaceSearch
    def __init__(self, model: _Optional[str] = ..., image: _Optional[_Union[Size, _Mapping]] = ..., embedder: _Optional[_Union[Version, _Mapping]] = ..., faces: _Optional[_Iterable[_Union[EmbeddedFace, _Mapping]]] = ..., search: _Optional[_Union[FaceSearch, _Mapping]] = ...) -> None: ...

class VerifyFacesRequest(_message.Message):
    __slots__ = ("a", "b", "model", "embedder", "threshold", "face_select", "min_size", "rotate")
    A_FIELD_NUMBER: _ClassVar[int]
    B_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EMBEDDER_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    FACE_SELECT_FIELD_NUMBER: _ClassVar[int]
    MIN_SIZE_FIELD_NUMBER: _ClassVar[int]
    ROTATE_FIELD_NUMBER: _ClassVar[int]
    a: bytes
    b: bytes
    model: str
    embedder: str
    threshold: float
    face_select: FaceSelect
    min_size: float
    rotate: FaceRotation
    def __init__(self, a: _Optional[bytes] = ..., b: _Optional[bytes] = ..., model: _Optional[str] = ..., embedder: _Optional[str] = ..., threshold: _Optional[float] = ..., face_select: _Optional[_Union[FaceSelect, str]] = ..., min_size: _Optional[float] = ..., rotate: _Optional[_Union[FaceRotation, str]] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("verified", "distance", "similarity", "threshold", "metric", "model")
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    verified: bool
    distance: float
    similarity: float
    threshold: float
    metric: str
    model: Version
    def __init__(self, verified: _Optional[bool] = ..., distance: _Optional[float] = ..., similarity: _Optional[float] = ..., threshold: _Optional[float] = ..., metric: _Optional[str] = ..., model: _Optional[_Union[Version, _Mapping]] = ...) -> None: ...

class VerifyFacesReply(_message.Message):
    __slots__ = ("verdict", "a", "b", "search_a", "search_b")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    A_FIELD_NUMBER: _ClassVar[int]
    B_FIELD_NUMBER: _ClassVar[int]
    SEARCH_A_FIELD_NUMBER: _ClassVar[int]
    SEARCH_B_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    a: Face
    b: Face
    search_a: FaceSearch
    search_b: FaceSearch
    def __init__(self, verdict: _Optional[_Union[Verdict, _Mapping]] = ..., a: _Optional[_Union[Face, _Mapping]] = ..., b: _Optional[_Union[Face, _Mapping]] = ..., search_a: _Optional[_Union[FaceSearch, _Mapping]] = ..., search_b: _Optional[_Union[FaceSearch, _Mapping]] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("embedding", "model")
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    embedding: _containers.RepeatedScalarFieldContainer[float]
    model: Version
    def __init__(self, embedding: _Optional[_Iterable[float]] = ..., model: _Optional[_Union[Version, _Mapping]] = ...) -> None: ...

class CompareFacesRequest(_message.Message):
    __slots__ = ("a", "b", "embedder", "threshold")
    A_FIELD_NUMBER: _ClassVar[int]
    B_FIELD_NUMBER: _ClassVar[int]
    EMBEDDER_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    a: Embedding
    b: Embedding
    embedder: str
    threshold: float
    def __init__(self, a: _Optional[_Union[Embedding, _Mapping]] = ..., b: _Optional[_Union[Embedding, _Mapping]] = ..., embedder: _Optional[str] = ..., threshold: _Optional[float] = ...) -> None: ...

class GalleryEntry(_message.Message):
    __slots__ = ("name", "embedding")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    name: str
    embedding: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., embedding: _Optional[_Iterable[float]] = ...) -> None: ...

class IdentifyFaceRequest(_message.Message):
    __slots__ = ("image", "model", "embedder", "threshold", "face_select", "top_k", "sha256", "embedding", "gallery", "min_size", "rotate")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EMBEDDER_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    FACE_SELECT_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    MIN_SIZE_FIELD_NUMBER: _ClassVar[int]
    ROTATE_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    embedder: str
    threshold: float
    face_select: FaceSelect
    top_k: int
    sha256: str
    embedding: _containers.RepeatedScalarFieldContainer[float]
    gallery: _containers.RepeatedCompositeFieldContainer[GalleryEntry]
    min_size: float
    rotate: FaceRotation
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., embedder: _Optional[str] = ..., threshold: _Optional[float] = ..., face_select: _Optional[_Union[FaceSelect, str]] = ..., top_k: _Optional[int] = ..., sha256: _Optional[str] = ..., embedding: _Optional[_Iterable[float]] = ..., gallery: _Optional[_Iterable[_Union[GalleryEntry, _Mapping]]] = ..., min_size: _Optional[float] = ..., rotate: _Optional[_Union[FaceRotation, str]] = ...) -> None: ...

class Match(_message.Message):
    __slots__ = ("name", "distance", "similarity", "verified")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    name: str
    distance: float
    similarity: float
    verified: bool
    def __init__(self, name: _Optional[str] = ..., distance: _Optional[float] = ..., similarity: _Optional[float] = ..., verified: _Optional[bool] = ...) -> None: ...

class IdentifyFaceReply(_message.Message):
    __slots__ = ("probe", "matches", "threshold", "metric", "model", "search")
    PROBE_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    probe: Face
    matches: _containers.RepeatedCompositeFieldContainer[Match]
    threshold: float
    metric: str
    model: Version
    search: FaceSearch
    def __init__(self, probe: _Optional[_Union[Face, _Mapping]] = ..., matches: _Optional[_Iterable[_Union[Match, _Mapping]]] = ..., threshold: _Optional[float] = ..., metric: _Optional[str] = ..., model: _Optional[_Union[Version, _Mapping]] = ..., search: _Optional[_Union[FaceSearch, _Mapping]] = ...) -> None: ...

class StylizeRequest(_message.Message):
    __slots__ = ("image", "model", "style", "strength", "format")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STYLE_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    style: str
    strength: float
    format: PictureFormat
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., style: _Optional[str] = ..., strength: _Optional[float] = ..., format: _Optional[_Union[PictureFormat, str]] = ...) -> None: ...

class StylizeReply(_message.Message):
    __slots__ = ("model", "image", "picture")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: Size
    picture: bytes
    def __init__(self, model: _Optional[str] = ..., image: _Optional[_Union[Size, _Mapping]] = ..., picture: _Optional[bytes] = ...) -> None: ...

class AnalyzeRequest(_message.Message):
    __slots__ = ("image", "tasks", "classify", "embed", "detect", "faces_detect", "faces_embed")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    CLASSIFY_FIELD_NUMBER: _ClassVar[int]
    EMBED_FIELD_NUMBER: _ClassVar[int]
    DETECT_FIELD_NUMBER: _ClassVar[int]
    FACES_DETECT_FIELD_NUMBER: _ClassVar[int]
    FACES_EMBED_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    tasks: _containers.RepeatedScalarFieldContainer[str]
    classify: ClassifyRequest
    embed: EmbedRequest
    detect: DetectRequest
    faces_detect: DetectFacesRequest
    faces_embed: EmbedFacesRequest
    def __init__(self, image: _Optional[bytes] = ..., tasks: _Optional[_Iterable[str]] = ..., classify: _Optional[_Union[ClassifyRequest, _Mapping]] = ..., embed: _Optional[_Union[EmbedRequest, _Mapping]] = ..., detect: _Optional[_Union[DetectRequest, _Mapping]] = ..., faces_detect: _Optional[_Union[DetectFacesRequest, _Mapping]] = ..., faces_embed: _Optional[_Union[EmbedFacesRequest, _Mapping]] = ...) -> None: ...

class TaskProblem(_message.Message):
    __slots__ = ("task", "problem")
    TASK_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    task: str
    problem: Problem
    def __init__(self, task: _Optional[str] = ..., problem: _Optional[_Union[Problem, _Mapping]] = ...) -> None: ...

class AnalyzeReply(_message.Message):
    __slots__ = ("image", "classify", "embed", "detect", "faces_detect", "faces_embed", "problems")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    CLASSIFY_FIELD_NUMBER: _ClassVar[int]
    EMBED_FIELD_NUMBER: _ClassVar[int]
    DETECT_FIELD_NUMBER: _ClassVar[int]
    FACES_DETECT_FIELD_NUMBER: _ClassVar[int]
    FACES_EMBED_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    image: Size
    classify: ClassifyReply
    embed: EmbedReply
    detect: DetectReply
    faces_detect: DetectFacesReply
    faces_embed: EmbedFacesReply
    problems: _containers.RepeatedCompositeFieldContainer[TaskProblem]
    def __init__(self, image: _Optional[_Union[Size, _Mapping]] = ..., classify: _Optional[_Union[ClassifyReply, _Mapping]] = ..., embed: _Optional[_Union[EmbedReply, _Mapping]] = ..., detect: _Optional[_Union[DetectReply, _Mapping]] = ..., faces_detect: _Optional[_Union[DetectFacesReply, _Mapping]] = ..., faces_embed: _Optional[_Union[EmbedFacesReply, _Mapping]] = ..., problems: _Optional[_Iterable[_Union[TaskProblem, _Mapping]]] = ...) -> None: ...

class ListStylesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Style(_message.Message):
    __slots__ = ("name", "title", "artist", "thumbnail")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    ARTIST_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_FIELD_NUMBER: _ClassVar[int]
    name: str
    title: str
    artist: str
    thumbnail: bytes
    def __init__(self, name: _Optional[str] = ..., title: _Optional[str] = ..., artist: _Optional[str] = ..., thumbnail: _Optional[bytes] = ...) -> None: ...

class ListStylesReply(_message.Message):
    __slots__ = ("styles",)
    STYLES_FIELD_NUMBER: _ClassVar[int]
    styles: _containers.RepeatedCompositeFieldContainer[Style]
    def __init__(self, styles: _Optional[_Iterable[_Union[Style, _Mapping]]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "task", "default", "ready", "executor", "device", "precision", "sha256", "licence", "input", "labels", "details")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    EXECUTOR_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    name: str
    task: str
    default: bool
    ready: bool
    executor: str
    device: str
    precision: str
    sha256: str
    licence: str
    input: Size
    labels: _containers.RepeatedScalarFieldContainer[str]
    details: _struct_pb2.Struct
    def __init__(self, name: _Optional[str] = ..., task: _Optional[str] = ..., default: _Optional[bool] = ..., ready: _Optional[bool] = ..., executor: _Optional[str] = ..., device: _Optional[str] = ..., precision: _Optional[str] = ..., sha256: _Optional[str] = ..., licence: _Optional[str] = ..., input: _Optional[_Union[Size, _Mapping]] = ..., labels: _Optional[_Iterable[str]] = ..., details: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class ListModelsReply(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class ListLayersRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("name", "kind", "shape", "receptive_field", "stride", "filters", "multiply_adds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    RECEPTIVE_FIELD_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_ADDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    receptive_field: _containers.RepeatedScalarFieldContainer[int]
    stride: _containers.RepeatedScalarFieldContainer[int]
    filters: _containers.RepeatedScalarFieldContainer[int]
    multiply_adds: int
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., receptive_field: _Optional[_Iterable[int]] = ..., stride: _Optional[_Iterable[int]] = ..., filters: _Optional[_Iterable[int]] = ..., multiply_adds: _Optional[int] = ...) -> None: ...

class ListLayersReply(_message.Message):
    __slots__ = ("model", "layers")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    model: str
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    def __init__(self, model: _Optional[str] = ..., layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ...) -> None: ...
