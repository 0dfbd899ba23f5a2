"""State dicts, metadata and labels: what is read, and that anything else is one kind of error."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from models.checkpoint import load_state, read_labels, read_metadata, read_state, require_files
from models.errors import WeightsError


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()


@pytest.mark.parametrize("save", [save_file, torch.save])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w"])
def test_a_state_dict_of_either_kind_is_read(
    name: str, save: Callable[[dict[str, Tensor], Path], None], tmp_path: Path
) -> None:
    state, path = network().state_dict(), tmp_path / name
    save(state, path)
    found = read_state(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [None, b"", b"not weights at all", b"\x80\x04K\x01."])
def test_a_file_that_is_none_is_an_error(name: str, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        read_state(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {0: torch.zeros(1)}, torch.zeros(2)])
def test_a_pickle_of_anything_else_is_an_error(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth"):
        read_state(tmp_path / "w.pth")


@pytest.mark.parametrize("assign", [False, True])
def test_a_network_is_filled_in_float32_and_evaluates(assign: bool) -> None:
    state = {key: value for key, value in network().half().state_dict().items() if "num_batches" not in key}
    filled = load_state(network(), state, "w.pth", assign=assign)
    assert not filled.training
    for key, tensor in filled.state_dict().items():
        if key in state:
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, state[key].float())


def test_what_does_not_fit_is_told() -> None:
    state = network().state_dict()
    with pytest.raises(WeightsError, match=r"w\.pth does not fit Sequential; missing: 0\.bias$"):
        load_state(network(), {key: value for key, value in state.items() if key != "0.bias"}, "w.pth")
    with pytest.raises(WeightsError, match=r"does not fit it; unexpected: a, b, c and 1 more"):
        load_state(network(), {**state, **dict.fromkeys("abcd", torch.zeros(1))}, "w.pth", name="it")
    with pytest.raises(WeightsError, match=r"wrong shape: 0\.bias \(3,\) for \(2,\)"):
        load_state(network(), {**state, "0.bias": torch.zeros(3)}, "w.pth")


@pytest.mark.parametrize("text", [None, "no json", "[1]", json.dumps({"a": 1})])
def test_metadata_is_one_json_object(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.zeros(1)}, path, metadata=None if text is None else {"config": text})
    if text == json.dumps({"a": 1}):
        assert read_metadata(path, "config") == {"a": 1}
        return
    with pytest.raises(WeightsError, match=r"w\.safetensors has no metadata 'config'"):
        read_metadata(path, "config")


WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)


@given(st.lists(WORDS), st.sampled_from(["\n", "\r\n"]))
def test_labels_are_the_lines(names: list[str], ending: str) -> None:
    with tempfile.NamedTemporaryFile("wb", suffix=".txt") as file:
        file.write((ending.join(["", *names, ""]) + ending).encode())
        file.flush()
        assert read_labels(Path(file.name)) == tuple(names)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_no_labels_are_an_error(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"names\.txt"):
        read_labels(tmp_path / "names.txt")


def test_missing_roles_are_told() -> None:
    require_files({"weights", "config"}, ("weights",), "a network")
    with pytest.raises(WeightsError, match=r"a network needs files\.config, files\.weights"):
        require_files({"labels"}, ("weights", "config"), "a network")
