"""Each kind of exported file gives what the module gave, on every executor; what cannot be served is told."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_format
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save
from torch import Tensor, nn

from models.errors import WeightsError
from models.exported.network import Network
from models.exported.opener import open_network
from models.image import Image
from models.pipeline import Kind
from service.engine.executor import Executor, make_executor
from service.settings import ExecutorKind, Settings
from tests.models.exported.files import FORMATS, Classifier, export, exported, onnx, served
from tests.models.image.test_decode import smooth

LABELS = ["a", "b", "c", "d", "e"]
OPTIONS: dict[str, Any] = {
    "labels": LABELS,
    "size": [48, 64],
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.25, 0.3],
    "fraction": 1.0,
}


def executor(pipeline: Any, kind: str) -> Executor:
    return make_executor(pipeline, Settings(device="cpu", executor=ExecutorKind(kind), workers=1, threads=1))


def answers(pipeline: Any, kind: str, images: list[Image]) -> list[Any]:
    run = executor(pipeline, kind)
    prepared = [pipeline.preprocess(image) for image in images]
    outputs = run.run([item.inputs for item in prepared])
    results: list[Any] = pipeline.postprocess(outputs, [item.context for item in prepared])
    return results


def normalised(pixels: np.ndarray, options: dict[str, Any]) -> Tensor:
    """By the definition in the options, in numpy and float64."""
    array = pixels.astype(np.float64)
    if options.get("colour") == "bgr":
        array = array[..., ::-1]
    array = (array / options.get("scale", 255) - options.get("mean", 0)) / options.get("std", 1)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1))).float()


def images(count: int) -> list[Image]:
    """Of the network's own size, so that nothing is resized."""
    return [Image(np.roll(smooth(48, 64), 9 * turn, 1), 64, 48) for turn in range(count)]


@pytest.mark.parametrize("kind", ["openvino", "torch"])
@pytest.mark.parametrize(("suffix", "colour"), [*((one, "rgb") for one in FORMATS), ("pt", "bgr")])
def test_the_modules_own_answer(suffix: str, kind: str, colour: str, tmp_path: Path) -> None:
    network = Classifier()
    path = export(network, tmp_path / f"mine.{suffix}", (3, 48, 64))
    options = OPTIONS | {"colour": colour}
    pipeline = served(Kind.CLASSIFY, path, **options)
    given = images(3)
    for count in (1, 3):
        results = answers(pipeline, kind, given[:count])
        with torch.inference_mode():
            wanted = network(torch.stack([normalised(one.pixels, options) for one in given[:count]])).softmax(
                1
            )
        assert np.ptp(wanted.numpy(), axis=1).min() > 0.05  # a network that tells classes apart
        np.testing.assert_allclose([result.scores for result in results], wanted, atol=2e-5)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kind", ["openvino", "torch"])
def test_a_fixed_batch_is_padded_and_cut(suffix: str, kind: str, tmp_path: Path) -> None:
    network = Classifier()
    path = export(network, tmp_path / f"mine.{suffix}", (3, 48, 64), free=False)
    pipeline = served(Kind.CLASSIFY, path, **OPTIONS, batch=1)
    assert pipeline.batch == 1
    assert pipeline.card.details["batch"] == "always 1; a smaller one is padded"
    given = images(3)
    with torch.inference_mode():
        wanted = network(torch.stack([normalised(one.pixels, OPTIONS) for one in given])).softmax(1)
    np.testing.assert_allclose([one.scores for one in answers(pipeline, kind, given)], wanted, atol=2e-5)


def test_a_batch_of_four_takes_three(tmp_path: Path) -> None:
    path = tmp_path / "four.onnx"
    onnx(Classifier().eval(), path, torch.zeros(4, 3, 48, 64), free=False)
    pipeline = served(Kind.CLASSIFY, path, **OPTIONS)
    assert pipeline.batch == 4
    given = images(5)
    alone = [answers(pipeline, "openvino", [one])[0].scores for one in given]
    np.testing.assert_allclose([one.scores for one in answers(pipeline, "openvino", given)], alone, atol=1e-6)


class Bytes(nn.Module):
    """Takes bytes, channels last, and normalises by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Classifier()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.permute(0, 3, 1, 2).float() / 255)
        return logits


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kind", ["openvino", "torch"])
def test_bytes_channels_last(suffix: str, kind: str, tmp_path: Path) -> None:
    network = Bytes()
    path = export(network, tmp_path / f"mine.{suffix}", (48, 64, 3), dtype=torch.uint8)
    pipeline = served(
        Kind.CLASSIFY, path, labels=LABELS, size=[48, 64], layout="nhwc", dtype="uint8", fraction=1
    )
    (image,) = images(1)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(image.pixels)[None]).softmax(1)[0]
    np.testing.assert_allclose(answers(pipeline, kind, [image])[0].scores, wanted, atol=2e-5)


def test_size_type_and_layout_may_stand_in_the_file(tmp_path: Path) -> None:
    path = export(Bytes(), tmp_path / "mine.onnx", (48, 64, 3), dtype=torch.uint8)
    pipeline = served(Kind.CLASSIFY, path, labels=LABELS)
    assert pipeline.card.input == (48, 64)
    assert pipeline.card.details["network_input"] == "uint8 [N, 48, 64, 3] rgb"


def test_grey(tmp_path: Path) -> None:
    network = Classifier(channels=1)
    path = export(network, tmp_path / "grey.pt", (1, 48, 64))
    pipeline = served(Kind.CLASSIFY, path, labels=LABELS, size=[48, 64], colour="grey", fraction=1)
    (image,) = images(1)
    (result,) = answers(pipeline, "openvino", [image])
    grey = (image.pixels @ np.array([0.299, 0.587, 0.114])).round()
    with torch.inference_mode():
        wanted = network(torch.from_numpy(grey / 255).float()[None, None]).softmax(1)[0]
    np.testing.assert_allclose(result.scores, wanted, atol=5e-3)


class Sized(nn.Module):
    """Computes with the batch's size, which a trace would take for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Classifier()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits.reshape(images.shape[0] * 5).reshape(images.shape[0], 5)


def test_a_program_that_computes_with_the_batchs_size(tmp_path: Path) -> None:
    path = export(Sized(), tmp_path / "sized.pt2", (3, 48, 64))
    pipeline = served(Kind.CLASSIFY, path, **OPTIONS)
    given = images(3)
    one_by_one = [answers(pipeline, "torch", [one])[0].scores for one in given]
    np.testing.assert_allclose(
        [one.scores for one in answers(pipeline, "openvino", given)], one_by_one, atol=2e-5
    )


def test_probabilities_are_left_alone(tmp_path: Path) -> None:
    network = nn.Sequential(Classifier(), nn.Softmax(1))
    path = export(network, tmp_path / "mine.pt", (3, 48, 64))
    pipeline = served(Kind.CLASSIFY, path, **OPTIONS, scores="probabilities")
    (result,) = answers(pipeline, "torch", images(1))
    with torch.inference_mode():
        np.testing.assert_allclose(
            result.scores, network(normalised(images(1)[0].pixels, OPTIONS)[None])[0], atol=1e-6
        )


def test_metadata_of_the_exporter(tmp_path: Path) -> None:
    path = export(Classifier(), tmp_path / "mine.onnx", (3, 48, 64))
    model = onnx_format.load(path)
    helper.set_model_props(model, {"names": "{0: 'a'}", "stride": "32"})
    onnx_format.save(model, path)
    assert open_network(path).metadata == {"names": "{0: 'a'}", "stride": "32"}


def network_of(path: Path) -> Network:
    return open_network(path)


def graph(*nodes: Any, inputs: int = 1, opset: int = 17) -> bytes:
    value = helper.make_tensor_value_info
    names = ["x", "x2"][:inputs]
    made = helper.make_graph(
        nodes,
        "g",
        [value(name, TensorProto.FLOAT, ["n", 3, 8, 8]) for name in names],
        [value("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)])
    content: bytes = model.SerializeToString()
    return content


def branching() -> bytes:
    value = helper.make_tensor_value_info
    branches = [
        helper.make_graph(
            [helper.make_node(kind, ["x"], [name])], name, [], [value(name, TensorProto.FLOAT, None)]
        )
        for kind, name in (("Relu", "t"), ("Neg", "e"))
    ]
    return graph(
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    )


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def of_torch_save() -> bytes:
    out = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, out)
    return out.getvalue()


def of_safetensors() -> bytes:

    content: bytes = save({"weight": torch.zeros(3)})
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: b"", r"is none of: a torch\.export archive"),
        (lambda: b"not a network", r"is none of: a torch\.export archive"),
        (lambda: pickle.dumps({"a": 1}), "is a pickle"),
        (of_torch_save, "is a pickle"),
        (of_safetensors, "is safetensors: tensors without a network"),
        (lambda: zipped(**{"a/b.txt": b"x"}), "is a zip archive of neither"),
        (lambda: zipped(**{"m/models/model.json": b"{}"}), r"is no complete torch\.export archive"),
        (
            lambda: zipped(**{"m/constants.pkl": b"", "m/code/__torch__.py": b""}),
            "cannot be read as TorchScript",
        ),
        (lambda: graph(helper.make_node("Frob", ["x"], ["y"])), r"OpenVINO cannot read .*opset 17.*Frob"),
        (lambda: graph(helper.make_node("Add", ["x", "x2"], ["y"]), inputs=2), r"takes 2 inputs \(x, x2\)"),
        (
            lambda: graph(helper.make_node("Relu", ["x"], ["y"]), opset=99),
            "is of ONNX opset 99; OpenVINO knows those",
        ),
    ],
)
def test_what_is_no_network_is_told(content: Callable[[], bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.bin"
    path.write_bytes(content())
    with pytest.raises(
        WeightsError, match=rf"model 'mine': mine\.bin {message}|model 'mine': {message}"
    ) as caught:
        served(Kind.CLASSIFY, path, **OPTIONS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": [48, 48]}, r"options\.size is \[48, 48\], but the input 'images' is \[N, 3, 48, 64\]"),
        ({"dtype": "uint8"}, r"options\.dtype is uint8, but the input 'images' is float32"),
        (
            {"colour": "grey", "mean": [0], "std": [1]},
            r"options\.colour is grey \(1 channels\), but the input",
        ),
        ({"layout": "nhwc"}, r"options\.colour is rgb \(3 channels\), but .*nhwc: 64 channels"),
        ({"labels": ["a", "b"]}, r"2 labels, but the network has 5 classes"),
        ({"labels": []}, r"options\.labels .* is missing"),
        ({"outputs": ["softmax"]}, r"options\.outputs names 'softmax'; there are: "),
        ({"head": "yolov8"}, r"unknown options \['head'\]; known: batch, colour"),
    ],
)
@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_what_the_file_contradicts_is_told(
    options: dict[str, Any], message: str, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"contradicted.{suffix}"
    if not path.exists():
        export(Classifier(), path, (3, 48, 64))
    with pytest.raises(WeightsError, match=message):
        served(Kind.CLASSIFY, path, **OPTIONS | options)


def test_torchscript_says_no_size_and_no_batch(tmp_path: Path) -> None:
    path = export(Classifier(), tmp_path / "mine.pt", (3, 48, 64))
    with pytest.raises(WeightsError, match=r"options\.size is missing"):
        served(Kind.CLASSIFY, path, labels=LABELS)

    class One(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.reshape(1, -1)[:, :5]

    path = export(One(), tmp_path / "one.pt", (3, 48, 64), free=False)
    with pytest.raises(WeightsError, match=r"for 2 images.*set options\.batch"):
        served(Kind.CLASSIFY, path, labels=LABELS, size=[48, 64])
    assert served(Kind.CLASSIFY, path, labels=LABELS, size=[48, 64], batch=1).batch == 1


class Branch(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        if bool(images.sum() > 0):
            return images.mean((2, 3))
        return -images.mean((2, 3))


class ShapeBranch(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        if images.dim() == 4:
            return images.mean((2, 3))
        return images


class Condition(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        chosen: Tensor = torch.cond(
            images.sum() > 0, lambda x: x.mean((2, 3)), lambda x: -x.mean((2, 3)), (images,)
        )
        return chosen


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_branches_on_data_are_refused_in_every_format(tmp_path: Path) -> None:
    paths = [tmp_path / "b.pt", tmp_path / "b.pt2", tmp_path / "b.onnx"]
    torch.jit.save(torch.jit.script(Branch()), paths[0])
    export(Condition(), paths[1], (3, 8, 8))
    paths[2].write_bytes(branching())
    for path in paths:
        with pytest.raises(WeightsError, match=rf"{path.name} branches on data"):
            served(Kind.CLASSIFY, path, labels=["a", "b", "c"], size=[8, 8])
    torch.jit.save(torch.jit.script(ShapeBranch()), paths[0])
    assert served(Kind.CLASSIFY, paths[0], labels=["a", "b", "c"], size=[8, 8]).card.labels == ("a", "b", "c")


def test_weights_beside_an_onnx_are_refused(tmp_path: Path) -> None:
    path = export(Classifier(), tmp_path / "mine.onnx", (3, 48, 64))
    onnx_format.save_model(
        onnx_format.load(path), path, save_as_external_data=True, location="mine.data", size_threshold=0
    )
    with pytest.raises(
        WeightsError, match=r"mine\.onnx has its weights in another file.*external_data=False"
    ):
        served(Kind.CLASSIFY, path, **OPTIONS)


class Harm:
    """Unpickled it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.write_text, (self.mark, "unpickled")


def replaced(path: Path, member: str, content: Callable[[bytes], bytes]) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name in members:
        if name.partition("/")[2] == member:
            members[name] = content(members[name])
    path.write_bytes(zipped(**members))


def test_nothing_of_a_program_is_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    harm = io.BytesIO()
    torch.save(Harm(mark), harm)
    original = export(Classifier(), tmp_path / "good.pt2", (3, 48, 64)).read_bytes()
    config = "data/weights/model_weights_config.json"
    cases: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
        "pickled objects as sample inputs": ("data/sample_inputs/model.pt", lambda _: harm.getvalue()),
        "holds a pickled object for": (
            config,
            lambda text: text.replace(b'"use_pickle": false', b'"use_pickle": true'),
        ),
        "which is no operator of PyTorch's own": (
            "models/model.json",
            lambda text: text.replace(b"torch.ops.aten.conv2d.default", b"torch.hub.load"),
        ),
        "calls 'torch.ops.aten.from_file": (
            "models/model.json",
            lambda text: text.replace(b"torch.ops.aten.conv2d.default", b"torch.ops.aten.from_file.default"),
        ),
        "which is no arithmetic": (
            "models/model.json",
            lambda text: text.replace(b"Symbol('", b"__import__('os').system('true') or Symbol('"),
        ),
    }
    for message, (member, change) in cases.items():
        path = tmp_path / "harm.pt2"
        path.write_bytes(original)
        replaced(path, member, change)
        with pytest.raises(WeightsError, match=message):
            open_network(path)
    assert not mark.exists()


def calling(line: str) -> bytes:
    """A TorchScript archive whose code has one more line; it runs as it is loaded, or later."""
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(ShapeBranch()), out)
    with zipfile.ZipFile(out) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (code,) = [name for name in members if name.endswith(".py")]
    members[code] = members[code].replace(b"    _0 =", line.encode() + b"\n    _0 =")
    assert line.encode() in members[code]
    return zipped(**members)


@pytest.mark.parametrize(
    ("line", "called"),
    [
        ('    _9 = torch.from_file("/etc/hostname", False, 3)', "from_file"),
        ('    _9 = ops.aten.from_file("/etc/hostname", False, 3)', "from_file"),
        ('    _9 = ops.image.read_file("/etc/hostname")', r"image\.read_file"),
    ],
)
def test_torchscript_that_touches_files_is_refused_before_it_is_loaded(
    line: str, called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "reader.pt"
    path.write_bytes(calling(line))
    monkeypatch.setattr("torch.jit.load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(WeightsError, match=rf"reader\.pt calls {called}, which may read or write files"):
        open_network(path)


def test_without_onnx_runtime_torch_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(Classifier(), tmp_path / "mine.onnx", (3, 48, 64))
    pipeline = served(Kind.CLASSIFY, path, **OPTIONS)
    assert executor(pipeline, "torch").name == "onnxruntime"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        WeightsError, match=r"mine\.onnx is ONNX, which Torch cannot run: install onnxruntime"
    ):
        executor(served(Kind.CLASSIFY, path, **OPTIONS), "torch")


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match="task is style, but an exported network may classify, detect or embed"
    ):
        exported(Kind.STYLE, export(Classifier(), tmp_path / "mine.pt", (3, 48, 64)))
