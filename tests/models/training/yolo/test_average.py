"""Averaging the weights of one training's points."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.detection.yolo import Yolo, load, save
from models.training.yolo.average import average, main
from tests.models.detection.squares import CONFIG


def network(seed: int) -> Yolo:
    torch.manual_seed(seed)
    made = Yolo(CONFIG)
    with torch.no_grad():
        for tensor in made.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor).half())
    return made.eval()


def test_it_is_the_mean_of_every_weight() -> None:
    a, b, c = (network(seed) for seed in range(3))
    mean = average([a, b, c], size=64).state_dict()
    for name, value in mean.items():
        slow = (a.state_dict()[name].double() + b.state_dict()[name] + c.state_dict()[name]) / 3
        assert torch.equal(value, slow.to(value.dtype)), name
    assert average([a, b], size=64).config == replace(CONFIG, size=64)
    assert average([a]).config == CONFIG


def test_other_anchors_or_labels_are_refused() -> None:
    other = Yolo(replace(CONFIG, labels=("circle",)))
    with pytest.raises(ValueError, match="labels"):
        average([network(0), other])


def test_the_command(tmp_path: Path) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, file in enumerate(files):
        save(network(seed), file)
    main([*map(str, files), "--size", "96", "--out", str(tmp_path / "c.safetensors")])
    mean = load(tmp_path / "c.safetensors")
    assert mean.config.size == 96
    expected = average([network(0), network(1)])
    for name, value in mean.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected.state_dict()[name], rtol=1e-3, atol=1e-3)
