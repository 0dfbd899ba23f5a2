"""The generated hostile files are what they claim: Pillow reads the honest ones, lengths are as asked for."""

from __future__ import annotations

import gzip
import io
import json
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import unknown_fields
from google.protobuf.message import DecodeError
from PIL import Image

from loadtests.hostile import documents, images, jpeg, messages, png, webp
from loadtests.hostile.case import Case
from loadtests.hostile.cases import all_cases
from loadtests.hostile.jpeg import Frame
from loadtests.hostile.run import pod_limit
from service.oip.stubs import open_inference_pb2
from service.rpc.stubs import vision_pb2

SIZE = (120, 88)


def opened(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Image.open(io.BytesIO(data))
        found.load()
    return found


@pytest.mark.parametrize(
    "frame",
    [Frame.BASELINE, Frame.EXTENDED, Frame.PROGRESSIVE, Frame.ARITHMETIC, Frame.ARITHMETIC_PROGRESSIVE],
)
@pytest.mark.parametrize("scans", [1, 7])
def test_empty_jpegs_decode_and_cost_ten_bytes_a_scan(frame: Frame, scans: int) -> None:
    data = jpeg.empty(*SIZE, frame=frame, scans=scans)
    found = opened(data) if scans > 1 else Image.open(io.BytesIO(data))
    assert (found.format, found.size, found.mode) == ("JPEG", SIZE, "RGB")
    assert data.count(b"\xff\xda") == scans
    assert len(jpeg.empty(*SIZE, frame=frame, scans=scans + 100)) - len(data) == 1000


@pytest.mark.parametrize(("adobe", "mode"), [(0, "CMYK"), (2, "CMYK")])
def test_jpegs_of_four_components(adobe: int, mode: str) -> None:
    data = jpeg.empty(*SIZE, sampling=((1, 1),) * 4, adobe=adobe, interleaved=True)
    assert Image.open(io.BytesIO(data)).mode == mode


@pytest.mark.parametrize("components", [1, 3])
def test_lossless_jpegs_have_a_bit_for_each_sample(components: int) -> None:
    data = jpeg.lossless(*SIZE, components=components)
    assert data[data.index(b"\xff\xc3") + 5 :][:4] == struct.pack(">HH", SIZE[1], SIZE[0])
    assert len(data) - SIZE[0] * SIZE[1] * components // 8 < 100


def test_a_jpeg_with_scans_after_its_own_is_whole() -> None:
    out = io.BytesIO()
    Image.new("L", SIZE, 90).save(out, "JPEG")
    data = jpeg.with_scans(out.getvalue(), 50)
    assert data.startswith(out.getvalue()[:-2])
    assert data.count(b"\xff\xda") == 51
    with pytest.raises(ValueError, match="end"):
        jpeg.with_scans(data[:-2], 1)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("depth", "color", "mode"),
    [
        *((1, 0, "1"), (2, 0, "L"), (8, 0, "L"), (16, 0, "I;16"), (8, 2, "RGB"), (16, 2, "RGB"), (8, 3, "P")),
        *((8, 4, "LA"), (8, 6, "RGBA"), (16, 6, "RGBA")),
    ],
)
def test_uniform_pngs(depth: int, color: int, mode: str, interlaced: bool) -> None:
    found = opened(png.uniform(*SIZE, depth=depth, color=color, interlaced=interlaced))
    assert (found.format, found.size, found.mode) == ("PNG", SIZE, mode)
    assert found.getextrema() is not None


def test_metadata_of_pngs_inflates_to_what_it_says() -> None:
    (profile,) = png.profiles(1, 5000)
    assert zlib.decompress(profile[8 + 3 : -4]) == bytes(5000)
    (text,) = png.compressed_texts(1, 5000)
    assert zlib.decompress(text[8 + 3 : -4]) == bytes(5000)
    (text,) = png.compressed_texts(1, 5000, international=True)
    assert zlib.decompress(text[8 + 6 : -4]) == bytes(5000)
    data = png.uniform(*SIZE, before=png.profiles(3) + png.small_chunks(100))
    assert data.count(b"tEXt") == 100
    assert opened(data).size == SIZE


def test_animations() -> None:
    found: Any = opened(png.animated(*SIZE, 4))
    assert (found.size, found.n_frames) == (SIZE, 4)
    found = opened(webp.animation(*SIZE, 5))
    assert (found.size, found.n_frames) == (SIZE, 5)


@pytest.mark.parametrize(
    ("data", "mode", "pixel"),
    [
        (webp.lossless(*SIZE), "RGB", (60, 200, 40)),
        (webp.lossless(*SIZE, alpha=True), "RGBA", (60, 200, 40, 128)),
        (webp.extended(*SIZE), "RGBA", (60, 200, 40, 128)),
    ],
)
def test_webps_of_one_colour_take_some_bytes_whatever_their_size(data: bytes, mode: str, pixel: Any) -> None:
    found = opened(data)
    assert (found.format, found.size, found.mode) == ("WEBP", SIZE, mode)
    assert found.getpixel((SIZE[0] - 1, SIZE[1] - 1)) == pixel
    assert len(webp.lossless(16_384, 2_990, alpha=True)) < 60


@pytest.mark.parametrize("bits", [1, 4, 8, 24, 32])
def test_bitmaps(bits: int) -> None:
    for height in (SIZE[1], -SIZE[1]):
        found = opened(webp.bitmap(SIZE[0], height, bits=bits))
        assert (found.format, found.size) == ("BMP", SIZE)


@pytest.mark.parametrize("name", [name for name in documents.INFER if name != "not closed"])
def test_json_is_json_of_about_the_length_asked_for(name: str) -> None:
    size = 600 if "nested" in name else 3_000  # Python's parser knows no deeper ones
    data = documents.INFER[name](size)
    assert size / 3 <= len(data) <= 2 * size
    parsed = json.loads(data) if "long integers" not in name and name != "a number" else {}
    assert isinstance(parsed, dict | float)


@pytest.mark.parametrize("makers", [documents.IMAGE, documents.COMPARE], ids=["image", "compare"])
def test_json_of_other_routes(makers: dict[str, documents.Maker]) -> None:
    for name, make in makers.items():
        json.loads(make(600))
        assert 450 <= len(make(600)) <= 750, name


def test_parameters_have_different_names() -> None:
    for of_input in (False, True):
        text = documents.parameters(5_000, of_input=of_input).decode()
        assert 4_900 <= len(text) <= 5_200
        assert text.count('"p') == len({word.split(":")[0] for word in text.split('"p')[1:]})


def test_compressed_documents_are_small() -> None:
    data = documents.INFER["inputs of lists"](2**20)
    packed = documents.zipped(data)
    assert gzip.decompress(packed) == data
    assert zlib.decompress(documents.deflated(data)) == data
    assert len(packed) < len(data) / 500


@pytest.mark.parametrize("name", list(documents.MULTIPART))
def test_multipart_bodies_have_about_the_length_asked_for(name: str) -> None:
    assert 90_000 <= len(documents.MULTIPART[name](100_000)) <= 110_500


def test_an_honest_form_is_one() -> None:
    from email.parser import BytesParser

    body = documents.form(documents.part(b"one"), documents.part(b"two", "style"))
    found = BytesParser().parsebytes(b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + body)
    parts: Any = found.get_payload()
    assert [(one.get_param("name", header="content-disposition"), one.get_payload()) for one in parts] == [
        ("image", "one"),
        ("style", "two"),
    ]


PARSED: dict[str, Callable[[Any], int]] = {
    "inputs": lambda found: len(found.inputs),
    "outputs": lambda found: len(found.outputs),
    "raw contents": lambda found: len(found.raw_input_contents),
    "unknown fields": lambda found: len(unknown_fields.UnknownFieldSet(found)),
    "sizes": lambda found: len(found.inputs[0].shape),
    "contents": lambda found: len(found.inputs[0].contents.bytes_contents) + len(found.inputs),
    "parameters of an input": lambda found: 400 * len(found.inputs[0].parameters),
    "numbers": lambda found: len(found.inputs[0].contents.uint_contents),
}


@pytest.mark.parametrize("name", list(PARSED))
def test_messages_are_full_of_what_they_say(name: str) -> None:
    found = open_inference_pb2.ModelInferRequest.FromString(messages.INFER[name](2_000))
    assert PARSED[name](found) >= 300


def test_messages_that_are_honest_and_those_that_are_none() -> None:
    image = images.small()
    found = open_inference_pb2.ModelInferRequest.FromString(messages.infer(image))
    assert (found.model_name, found.inputs[0].datatype) == ("efficientnet-lite0", "BYTES")
    assert found.raw_input_contents[0] == struct.pack("<I", len(image)) + image
    assert vision_pb2.ClassifyRequest.FromString(messages.classify(image)).image == image
    detect = vision_pb2.DetectRequest.FromString(messages.VISION["Detect of classes"][1](1000))
    assert len(detect.classes) == 500
    for message in messages.MALFORMED:
        with pytest.raises(DecodeError):
            open_inference_pb2.ModelInferRequest.FromString(message)


def test_every_case_is_named_once_and_the_reduced_run_has_some_of_each_kind() -> None:
    cases: list[Case] = all_cases()
    kinds = {case.name.split()[0] for case in cases}
    quick = {case.name.split()[0] for case in cases if case.quick}
    assert {"decode", "json", "multipart", "grpc", "headers", "connections", "explain"} <= quick <= kinds
    assert set(images.QUICK) | set(images.COSTLY) <= set(images.all_images())


def test_the_pods_limit_is_read_from_its_manifest() -> None:
    assert pod_limit() >= 2 * 2**30


def test_a_small_image_is_an_image() -> None:
    assert opened(images.small()).size == (192, 144)
