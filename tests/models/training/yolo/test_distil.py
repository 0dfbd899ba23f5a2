"""A detector taught by another: what the teacher says, what becomes of the labels, what is learnt from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_convert, box_iou

from models.detection.darknet import cfg as cfg
from models.detection.darknet.network import Darknet
from models.detection.yolo import Detector, Yolo, load
from models.errors import ModelUnknown, WeightsError
from models.image import decode, letterbox
from models.training.yolo import data
from models.training.yolo.__main__ import main
from models.training.yolo.distil import DarknetTeacher, Lesson, Mimic, Teacher, load_teacher, soften
from models.training.yolo.folder import Folder
from models.training.yolo.trainer import Recipe, Trainer
from models.weights import sha256_of
from tests.models.detection.darknet.random_networks import network_of, noise
from tests.models.detection.squares import CONFIG, draw_squares
from tests.paths import SHARED, needs_shared

NET = "[net]\nwidth=64\nheight=64\n"
DOWN = "[convolutional]\nfilters=6\nsize=3\nstride=2\npad=1\nbatch_normalize=1\nactivation=leaky\n"
HEAD = (
    "[convolutional]\nfilters=14\nsize=1\nactivation=linear\n"
    "[yolo]\nanchors=10,14, 23,27\nmask=0,1\nclasses=2\nnum=2\n"
)
TEXT = NET + 4 * DOWN + HEAD  # stride 16, two classes
NAMES = "circle\nsquare\n"


@pytest.fixture
def network(tmp_path: Path) -> Darknet:
    return network_of(TEXT, tmp_path / "a.weights", gain=2.0)


@pytest.fixture
def catalogue(network: Darknet, tmp_path: Path) -> Path:
    """The network as an operator's own model."""
    (tmp_path / "a.cfg").write_text(TEXT)
    (tmp_path / "a.names").write_text(NAMES)
    lines = ['[wise]\ntask = "detect"\nbuilder = "darknet"\nlicense = "ours"\n[wise.files]']
    for role, name in (("weights", "a.weights"), ("config", "a.cfg"), ("labels", "a.names")):
        digest = sha256_of(tmp_path / name)
        lines.append(f'{role} = {{source = "file", path = "{name}", sha256 = "{digest}"}}')
    (tmp_path / "wise.toml").write_text("\n".join(lines))
    return tmp_path / "wise.toml"


def test_a_darknet_teacher_says_what_its_network_says(network: Darknet) -> None:
    images = torch.from_numpy(noise(network, 3))
    with torch.no_grad():
        raw, (all_boxes, scores) = network.raw(images), network(images)
    lesson = DarknetTeacher(network, {1: 0})(images, score=0.5)
    (map_,) = lesson.maps
    assert map_.shape == (3, 4, 4, 2, 7)
    # bfloat16 where the machine has it
    torch.testing.assert_close(map_.permute(0, 3, 4, 1, 2).reshape(raw[0].shape), raw[0], rtol=0.05, atol=0.1)
    assert len(lesson.found)
    assert set(lesson.found[:, 1].tolist()) == {0.0}  # our class, not the teacher's
    for image, _, *box, score in lesson.found.tolist():
        near = box_iou(box_convert(torch.tensor([box]), "cxcywh", "xyxy"), all_boxes[int(image)]).argmax()
        assert scores[int(image), near, 1] == pytest.approx(score, abs=0.05)


@pytest.mark.parametrize(
    ("text", "classes", "message"),
    [
        (TEXT, {}, "none of the labels"),
        (NET + 3 * DOWN + HEAD.replace("mask", "new_coords=1\nmask"), {0: 0}, "without new_coords"),
        (NET + 2 * DOWN + HEAD, {0: 0}, "strides"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(text: str, classes: dict[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DarknetTeacher(Darknet(cfg.parse(text, "a.cfg")), classes)


def test_any_detector_can_teach() -> None:
    torch.manual_seed(0)
    detector = Detector(Yolo(replace(CONFIG, labels=("circle", "square")))).eval()
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        all_boxes, scores = detector(images)
    least = float(scores[..., 1].median())
    lesson = Teacher(detector, {1: 0})(images, score=least)
    assert not lesson.maps
    assert len(lesson.found)
    assert set(lesson.found[:, 1].tolist()) == {0.0}
    for image, _, *box, score in lesson.found.tolist():
        corners = box_convert(torch.tensor([box]), "cxcywh", "xyxy")
        overlap, near = box_iou(corners, all_boxes[int(image)]).max(dim=1)
        assert overlap > 0.9  # bfloat16 where the machine has it
        assert scores[int(image), near, 1] == pytest.approx(score, abs=0.01)


# --- labels ---

ROW = st.tuples(st.integers(0, 1), st.integers(0, 1), *[st.integers(10, 50)] * 2, *[st.integers(5, 40)] * 2)
SCORE = st.integers(1, 20).map(lambda twentieth: twentieth / 20)


@settings(max_examples=80, deadline=None)
@given(
    labels=st.lists(ROW, max_size=5),
    told=st.lists(st.tuples(ROW, SCORE), max_size=5),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    taught=st.sampled_from([(0,), (1,), (0, 1)]),
)
def test_labels_are_softened_as_a_slow_loop_does(
    labels: list[tuple[int, ...]],
    told: list[tuple[tuple[int, ...], float]],
    share: float,
    taught: tuple[int, ...],
) -> None:
    targets = torch.tensor([[*row, 1.0] for row in labels]).reshape(-1, 7)
    found = torch.tensor([[*row, score] for row, score in told if row[1] in taught]).reshape(-1, 7)

    def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
        if a[0] != b[0] or a[1] != b[1]:
            return 0.0
        pair = [box_convert(row[None, 2:6], "cxcywh", "xyxy") for row in (a, b)]
        return float(box_iou(*pair))

    expected = []
    for label in targets:
        seen = max((float(row[6]) for row in found if overlap(label, row) >= 0.5), default=0.0)
        sure = 1 - share + share * seen if int(label[1]) in taught else 1.0
        expected.append([*label[:6].tolist(), sure])
    alone = [row for row in found if all(overlap(label, row) < 0.3 for label in targets)]
    expected += [[*row[:6].tolist(), share * float(row[6])] for row in alone]
    softened = soften(targets, found, share, torch.tensor(taught))
    torch.testing.assert_close(softened, torch.tensor(expected).reshape(-1, 7))


# --- mimicry ---


def test_who_says_the_same_has_nothing_to_learn(network: Darknet) -> None:
    teacher = DarknetTeacher(network, {0: 0})
    mimic = Mimic(teacher, channels=8)
    features = [torch.randn(2, 8, 64 // stride, 64 // stride) for stride in (8, 16, 32)]
    said = mimic.heads[0](features[1]).detach().permute(0, 2, 3, 1).reshape(2, 4, 4, 2, 7)

    def loss(maps: torch.Tensor) -> torch.Tensor:
        return mimic(features, Lesson((maps,), torch.zeros(0, 7)))

    least = loss(said)
    (gradient,) = torch.autograd.grad(least, mimic.heads[0].weight)
    assert gradient.abs().max() < 1e-6
    for part in (0, 2, 4, 6):
        other = said.clone()
        other[..., part] += 1.5
        (gradient,) = torch.autograd.grad(loss(other), mimic.heads[0].weight)
        assert gradient.abs().max() > 1e-4


def test_a_taught_training_learns_and_goes_on(network: Darknet, tmp_path: Path) -> None:
    train, held = data.split(Folder.read(draw_squares(tmp_path)))
    recipe = Recipe(
        size=64, test_size=64, batch=8, epochs=2, warmup=2, measure_every=2, longest=80, mimic=0.2
    )
    torch.manual_seed(0)
    whole = Trainer(Yolo(CONFIG), train, held, recipe, DarknetTeacher(network, {1: 0}))
    whole.run(tmp_path / "out")
    first, last = (row["mimic"] for row in whole.history)
    assert 0 < last < first
    assert not any("mimic" in name for name in load(tmp_path / "out" / "last.safetensors").state_dict())
    again = Trainer(Yolo(CONFIG), train, held, recipe, DarknetTeacher(network, {1: 0}))
    again.resume(tmp_path / "out" / "last.pt")
    for name, tensor in whole.mimic.state_dict().items():
        torch.testing.assert_close(again.mimic.state_dict()[name], tensor)


def test_a_teacher_without_darknet_heads_only_softens(tmp_path: Path) -> None:
    train, held = data.split(Folder.read(draw_squares(tmp_path)))
    recipe = Recipe(size=64, test_size=64, batch=8, epochs=1, warmup=2, longest=80)
    torch.manual_seed(0)
    trainer = Trainer(Yolo(CONFIG), train, held, recipe, Teacher(Detector(Yolo(CONFIG)), {0: 0}))
    trainer.run(tmp_path / "out")
    assert [row["mimic"] for row in trainer.history] == [0.0]
    assert not list(trainer.mimic.parameters())


def test_the_command_takes_a_teacher_from_a_catalogue(catalogue: Path, tmp_path: Path) -> None:
    folder = draw_squares(tmp_path)
    common = [str(folder), "--labels", "square", "--size", "64", "--test-size", "64", "--batch", "8"]
    common += ["--epochs", "1", "--out", str(tmp_path / "out"), "--catalogue", str(catalogue)]
    main([*common, "--teacher", "wise"])
    assert (tmp_path / "out" / "last.safetensors").is_file()
    with pytest.raises(ModelUnknown):
        load_teacher("unknown", catalogue, 64, ["square"])
    with pytest.raises(ValueError, match="canvas"):
        load_teacher("yolo-person", catalogue, 64, ["person"])
    with pytest.raises(ValueError, match="no detector"):
        load_teacher("lenet5", catalogue, 64, ["person"])
    with pytest.raises(WeightsError, match="multiple of 64"):
        load_teacher("efficientdet-lite0", catalogue, 416, ["person"])


@needs_shared
def test_yolo_fastest_sees_the_people_of_a_photo(tmp_path: Path) -> None:
    """A real teacher on the canvas that ours was taught on, larger than its own."""
    lines = ['[t]\ntask = "detect"\nbuilder = "darknet"\nlicense = ""\n[t.files]']
    stem = "yolo-fastest-1.1-xl"
    for role, name in (("weights", f"{stem}.weights"), ("config", f"{stem}.cfg"), ("labels", "coco.names")):
        path = SHARED / "weights" / name
        lines.append(f'{role} = {{source = "file", path = "{path}", sha256 = "{sha256_of(path)}"}}')
    (tmp_path / "t.toml").write_text("\n".join(lines))
    teacher = load_teacher("t", tmp_path / "t.toml", 448, ["person"])
    picture = decode((SHARED / "data" / "photos" / "person.jpg").read_bytes())
    canvas, _ = letterbox(picture, 448, 448)
    lesson = teacher(torch.from_numpy(np.ascontiguousarray(canvas))[None], score=0.4)
    assert [map_.shape[1] for map_ in lesson.maps] == [14, 28]
    assert len(lesson.found) >= 1


@needs_shared
def test_efficientdet_sees_dog_and_bicycle() -> None:
    teacher = load_teacher("efficientdet-lite0", None, 448, ["bicycle", "dog", "helmet"])
    image = decode((SHARED / "data" / "photos" / "dog.jpg").read_bytes())
    canvas, _ = letterbox(image, 448, 448)
    lesson = teacher(torch.from_numpy(np.ascontiguousarray(canvas))[None], score=0.4)
    assert sorted(lesson.found[:, 1].tolist()) == [0.0, 1.0]
