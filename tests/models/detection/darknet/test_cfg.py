"""The parser of darknet's cfg: what it reads, what it refuses, and that nothing else comes out of it."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.detection.darknet import cfg as cfg
from models.detection.darknet.network import Darknet
from models.detection.darknet.section import Place
from models.errors import WeightsError
from tests.paths import SHARED, needs_shared

NET = "[net]\nwidth=64\nheight=32\n"
YOLO = "[yolo]\nmask=0\nanchors=10,14\nclasses=1\nnum=1\n"
HEAD = "[convolutional]\nfilters=6\nactivation=linear\n" + YOLO


def parse(text: str) -> cfg.Config:
    return cfg.parse(text, "a.cfg")


@needs_shared
@pytest.mark.parametrize("path", sorted((SHARED / "weights").glob("*.cfg")), ids=lambda path: path.stem)
def test_published_networks_parse_and_fit_together(path: Path) -> None:
    config = cfg.parse(path.read_text(), path.name)
    assert len(config.layers) == len(re.findall(r"(?m)^\[", path.read_text())) - 1
    assert Darknet(config).classes == 80


def test_reads_every_option_of_a_convolution() -> None:
    text = "[conv]\nfilters = 8 # eight\nsize=3\nstride=2\npad=1\ngroups=1\ndilation=2\nbatch_normalize=1\n"
    layer = parse(NET + text + "activation=mish\n" + HEAD).layers[0]
    assert isinstance(layer, cfg.Convolutional)
    assert (layer.filters, layer.size, layer.stride, layer.padding, layer.groups, layer.dilation) == (
        8,
        3,
        2,
        1,
        1,
        2,
    )
    assert layer.batch_normalize
    assert layer.activation == "mish"
    assert layer.place == Place("a.cfg", 4, "layer 0 [conv]")


def test_padding_is_that_of_pad_or_its_own() -> None:
    text = NET + "[convolutional]\nsize=5\npad=1\npadding=1\n[convolutional]\nsize=5\npadding=1\n" + HEAD
    assert [layer.padding for layer in parse(text).layers[:2] if isinstance(layer, cfg.Convolutional)] == [
        2,
        1,
    ]


def test_references_become_absolute() -> None:
    text = (
        NET + "[dropout]\n" * 3 + "[route]\nlayers=-1, 0\n[shortcut]\nfrom=-2,1,\nactivation=leaky\n" + HEAD
    )
    layers = parse(text).layers
    assert isinstance(layers[3], cfg.Route)
    assert isinstance(layers[4], cfg.Shortcut)
    assert (layers[3].layers, layers[4].layers) == ((2, 0), (2, 1))


def test_a_mask_chooses_anchors_and_no_mask_means_all() -> None:
    yolo = "[yolo]\nanchors=1,2, 3,4, 5,6\nclasses=2\nnum=3\nscale_x_y=1.05\nnew_coords=1\n"
    layers = parse(NET + yolo + yolo + "mask=2,0\n").layers
    every, some = (layer for layer in layers if isinstance(layer, cfg.Yolo))
    assert list(every.anchors) == [(1, 2), (3, 4), (5, 6)]
    assert list(some.anchors) == [(5, 6), (1, 2)]
    assert (some.classes, some.scale_x_y, some.new_coords) == (2, 1.05, True)


def test_comments_and_what_only_training_reads_are_left_out() -> None:
    text = "# a\n\n; b\n[net]\r\nwidth=64\nheight=32\nhue=.1\nletter_box=1\nwidth=99\n" + HEAD
    config = parse(text)
    assert (config.net.width, config.net.height, config.net.letter_box) == (64, 32, True)  # the first of two


CONV = NET + "[conv]\n"
DROP = "[dropout]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1: no section"),
        ("width=3\n", "1: before [net]"),
        ("[dropout]\n", "1: before [net]: a darknet cfg starts with [net]"),
        ("[net]\nwidth=64\n" + HEAD, "1: [net]: height is missing"),
        (NET + "[conv", "4: [net]: '[conv' is no section"),
        (CONV + "filters\n", "5: layer 0 [conv]: 'filters' is neither"),
        (CONV + "filters=\n", "5: layer 0 [conv]: 'filters=' is neither"),
        (CONV + "filters=many\n", "5: layer 0 [conv]: filters='many' is not a whole number"),
        (CONV + "filters=0\n", "5: layer 0 [conv]: filters=0 is not from 1 to 65536"),
        (CONV + "activation=tanh\n", "5: layer 0 [conv]: unknown activation 'tanh'"),
        (CONV + "xnor=1\n", "5: layer 0 [conv]: xnor=1 is not supported, only xnor=0"),
        (CONV + "stride_x=1\n", "5: layer 0 [conv]: stride_x=1 is not supported"),
        (NET + DROP + "[lstm]\n", "5: layer 1 [lstm]: unknown section"),
        (NET + "[route]\nlayers=-1\n", "5: layer 0 [route]: layers=-1 names a layer that is not before"),
        (NET + "[route]\nlayers=0\n", "5: layer 0 [route]: layers=0 names a layer that is not before"),
        (NET + "[route]\n", "4: layer 0 [route]: layers is missing"),
        (NET + "[route]\ngroups=2\ngroup_id=2\n", "6: layer 0 [route]: group_id=2 is not from 0 to 1"),
        (NET + DROP + "[shortcut]\nweights_type=per_feature\n", "6: layer 1 [shortcut]: weights_type="),
        (NET + DROP * 2 + "[scale_channels]\nfrom=0,1\n", "7: layer 2 [scale_channels]: from names more"),
        (NET + "[yolo]\nnum=2\nanchors=1,2,3\n", "6: layer 0 [yolo]: 3 numbers for num=2 anchors"),
        (NET + "[yolo]\nnum=1\nanchors=1,nan\n", "6: layer 0 [yolo]: anchors='nan' is not a number"),
        (NET + "[yolo]\nnum=1\nanchors=1,2\nmask=1\n", "7: layer 0 [yolo]: mask=1 is not from 0 to 0"),
        (NET + "[region]\nsoftmax=0\n", "5: layer 0 [region]: softmax=0 is not supported"),
        (NET + DROP, " no [yolo] and no [region] section"),
        (NET + DROP * 1001, "1004: layer 999 [dropout]: more than 1000 layers"),
    ],
)
def test_errors_name_file_line_and_section(text: str, message: str) -> None:
    with pytest.raises(WeightsError, match=re.escape("a.cfg:" + message)):
        parse(text)


HALVED = "[maxpool]\nstride=2\n"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            "[conv]\nfilters=7\n" + YOLO,
            "6: layer 1 [yolo]: 7 channels come in, its anchors and classes need 6",
        ),
        ("[conv]\nfilters=5\ngroups=2\n", "4: layer 0 [conv]: 3 channels to 5 filters do not fall into 2"),
        ("[maxpool]\nsize=31\npadding=0\n[conv]\nsize=9\n", "7: layer 1 [conv]: size=9 does not fit"),
        ("[maxpool]\nsize=40\npadding=0\n", "4: layer 0 [maxpool]: size=40 does not fit"),
        (HALVED + "[upsample]\n[route]\nlayers=0,1\n", "7: layer 2 [route]: its inputs have different sizes"),
        (
            HALVED + "[upsample]\n[shortcut]\nfrom=0\n",
            "7: layer 2 [shortcut]: its inputs have different sizes",
        ),
        (DROP + "[route]\nlayers=0\ngroups=2\n", "5: layer 1 [route]: its inputs do not fall into 2 groups"),
        (DROP + "[scale_channels]\nfrom=0\n", "5: layer 1 [scale_channels]: (3, 32, 64) cannot scale"),
        ("[reorg]\nstride=3\n", "4: layer 0 [reorg]: (3, 32, 64) cannot be reordered with stride 3"),
        ("[upsample]\nstride=32\n" * 3, "6: layer 1 [upsample]: its output (3, 32768, 65536) is larger"),
        (HEAD + DROP, "12: layer 2 [dropout]: it reads layer 1, whose output is detections"),
    ],
)
def test_layers_that_do_not_fit_together_are_named(layers: str, message: str) -> None:
    with pytest.raises(WeightsError, match=re.escape("a.cfg:" + message)):
        Darknet(parse(NET + layers + HEAD))


def test_heads_that_know_different_classes_are_refused() -> None:
    other = "[convolutional]\nfilters=7\nactivation=linear\n" + YOLO.replace("classes=1", "classes=2")
    with pytest.raises(WeightsError, match="different numbers of classes"):
        Darknet(parse(NET + HEAD + "[route]\nlayers=0\n" + other))


def test_a_network_without_weights_is_refused() -> None:
    yolo = "[yolo]\nanchors=1,2,3,4\nclasses=1\nnum=2\n"
    with pytest.raises(WeightsError, match=r"a\.cfg:1: \[net\]: no layer has weights"):
        Darknet(parse(NET + DROP + "[route]\nlayers=0,0,0,0\n" + yolo))


KEYS = (
    list(cfg.Convolutional.__slots__) + list(cfg.Yolo.__slots__) + ["width", "layers", "from", "mask", "num"]
)
SECTIONS = ["net", "conv", "maxpool", "avgpool", "route", "shortcut", "scale_channels", "upsample", "reorg"]
SECTIONS += ["dropout", "yolo", "region", "cost"]
VALUES = st.one_of(
    st.integers(-3, 9).map(str),
    st.lists(st.integers(-3, 12), max_size=4).map(lambda numbers: ",".join(map(str, numbers))),
    st.sampled_from(["leaky", "1e400", "nan", "²", "1_0", "0x3", "-", "٣", " ", "9" * 30]),
    st.text(max_size=5),
)
LINES = st.one_of(
    st.sampled_from(SECTIONS).map(lambda name: f"[{name}]"),
    st.builds(lambda key, value: f"{key}={value}", st.sampled_from(KEYS), VALUES),
    st.text(max_size=12),
)


@settings(max_examples=150, deadline=None)
@given(text=st.one_of(st.text(), st.lists(LINES).map(lambda lines: NET + "\n".join(lines) + "\n" + HEAD)))
@example(text="[net]\nwidth=64\nheight=64\n[route]\nlayers=,\n")
@example(text="[]")
@example(text=NET + "[shortcut]\nfrom=,,\n" + HEAD)
def test_garbage_raises_nothing_but_weights_errors(text: str) -> None:
    with contextlib.suppress(WeightsError):
        Darknet(parse(text))
