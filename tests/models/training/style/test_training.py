"""Training of the style network: data, the quick norm, a small run from end to end, and one style more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from models.classification.efficientnet import EfficientNetLite
from models.errors import ParameterInvalid
from models.image import decode, encode
from models.pipeline import Style
from models.style.config import StyleConfig
from models.style.transfer import ConditionalNorm, StyleNetwork, load, save
from models.training.style import __main__ as command
from models.training.style import add as style_add
from models.training.style import data
from models.training.style import trainer as training
from models.training.style.norm import QuickNorm, hasten
from models.training.style.sheet import sheet
from models.training.style.trainer import Costs, Recipe, Trainer
from tests.models.style.small import STYLES, picture, random_backbone, random_network

RECIPE = Recipe(
    size=32,
    shortest=40,
    painting_size=48,
    batch=4,
    steps=6,
    rate=3e-3,
    style_rate=1e-2,
    warmup=2,
    average=0.8,
    style_weight=20,
    report_every=2,
    measure_every=3,
    held=2,
    sheet_size=40,
    channels=8,
    quarter_channels=12,
    blocks=1,
)
PAINTINGS = [picture(48, 40, 7), picture(40, 48, 8), picture(48, 48, 9)]


# --- data ---


def test_batches_depend_on_seed_and_place_only() -> None:
    pictures = [picture(48, 64, seed) for seed in range(5)]

    def some(seed: int, first: int, count: int) -> list[list[tuple[Tensor, int]]]:
        batches = data.batches(pictures, [1, 1, 0, 2], 32, (2, 3), seed, first)
        return [next(batches) for _ in range(count)]

    whole, later, other = some(1, 0, 40), some(1, 2, 1), some(2, 0, 1)
    for (images, style), (again, the_same) in zip(whole[2], later[0], strict=True):
        assert torch.equal(images, again)
        assert style == the_same
    assert not torch.equal(whole[0][0][0], other[0][0][0])
    assert [images.shape for images, _ in whole[0]] == [(3, 32, 32, 3)] * 2
    drawn = np.bincount([style for step in whole for _, style in step], minlength=4)
    assert drawn[2] == 0
    assert drawn[3] > drawn[0] > 0


def test_crops_lie_within_their_picture() -> None:
    ramp = np.arange(60, dtype=np.uint8)[None, :, None].repeat(40, 0).repeat(3, 2)
    for seed in range(30):
        cut = data.crop(ramp, 32, np.random.default_rng(seed)).astype(int)
        steps = np.diff(cut[:, :, 0], axis=1)
        assert cut.shape == (32, 32, 3)
        assert (steps >= 0).all() or (steps <= 0).all()
        assert 17 <= np.ptp(cut) <= 40  # of 19 to 40 pixels
    assert data.crop(ramp[:20], 32, np.random.default_rng(0)).shape == (32, 32, 3)


def test_a_painting_brings_its_title_and_thumbnail(tmp_path: Path) -> None:
    (tmp_path / "udnie.png").write_bytes(encode(picture(200, 320), "png"))
    (tmp_path / "my_own.png").write_bytes(encode(picture(50, 30), "png"))
    known = data.painting(tmp_path / "udnie.png", 160)
    assert (known.style.name, known.style.title, known.style.artist) == ("udnie", "Udnie", "Francis Picabia")
    assert known.pixels.shape == (100, 160, 3)
    assert decode(known.style.thumbnail).pixels.shape == (100, 160, 3)
    own = data.painting(tmp_path / "my_own.png", 160, artist="Me")
    assert (own.style.title, own.style.artist, own.pixels.shape) == ("My own", "Me", (50, 30, 3))
    assert len(data.files([tmp_path])) == 2
    part = data.painting(tmp_path / "udnie.png", 160, part=(0.25, 0, 1, 0.5))
    np.testing.assert_array_equal(part.pixels, known.pixels[:50, 40:])
    assert part.style == known.style
    images = data.Images(data.files([tmp_path]), 40)
    assert [images[index].shape for index in range(len(images))] == [(67, 40, 3), (40, 64, 3)]
    np.testing.assert_array_equal(images[1:][0], images[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ParameterInvalid, match="no images"):
        data.files([tmp_path / "empty"])


# --- the quick norm ---


def test_the_quick_norm_is_the_plain_one() -> None:
    torch.manual_seed(0)
    inputs = (2 + 3 * torch.randn(2, 6, 9, 7)).contiguous(memory_format=torch.channels_last)
    scale, shift, upper = torch.rand(2, 6) + 0.5, torch.randn(2, 6), torch.randn(2, 6, 9, 7)
    found = []
    for norm in (ConditionalNorm(), QuickNorm()):
        leaves = [tensor.clone().requires_grad_() for tensor in (inputs, scale, shift)]
        outputs = norm(*leaves)
        outputs.backward(upper)
        found.append([outputs.detach(), *[leaf.grad for leaf in leaves]])
    for plain, quick in zip(*found, strict=True):
        torch.testing.assert_close(quick, plain, rtol=1e-4, atol=1e-5)


def test_a_hastened_network_is_the_same_function() -> None:
    network, images = random_network(), torch.rand(2, 3, 32, 32) * 255
    with torch.no_grad():
        expected = network(images, network.styles[:2])
        hasten(network)
        assert any(isinstance(module, QuickNorm) for module in network.modules())
        torch.testing.assert_close(network(images, network.styles[:2]), expected, rtol=1e-3, atol=0.02)


# --- training ---


def costs(recipe: Recipe = RECIPE, paintings: int = 3) -> Costs:
    return Costs(random_backbone(), PAINTINGS[:paintings], recipe)


def trainer(recipe: Recipe = RECIPE) -> Trainer:
    torch.manual_seed(0)
    network = StyleNetwork(StyleConfig(STYLES, (recipe.channels, recipe.quarter_channels), recipe.blocks))
    pictures = [picture(40, 56, seed) for seed in range(6)]
    return Trainer(network, costs(recipe), pictures[2:], pictures[:2], recipe, shares=[1, 2, 1])


def test_the_costs_take_a_batch_to_its_painting() -> None:
    paintings = torch.stack([torch.from_numpy(pixels[:40, :40].copy()) for pixels in PAINTINGS])
    all_costs = Costs(random_backbone(), list(paintings.numpy()), RECIPE)
    shown = training.planes(paintings)
    for index in range(3):
        one = shown[[index]]
        own, other = all_costs(one, one, index), all_costs(one, one, (index + 1) % 3)
        assert (own[[0, 1, 3]] < 0.01).all()  # bfloat16 against float32
        assert (other[[1, 3]] > 5 * own[[1, 3]]).all()


def test_style_is_compared_in_the_mean_over_a_batch() -> None:
    """Two halves of a painting are, together, the painting."""
    halves = np.stack([picture(64, 64, 1), picture(64, 64, 2) // 3 + 90])
    whole = Costs(random_backbone(), [np.concatenate(list(halves))], RECIPE)
    shown = training.planes(torch.from_numpy(halves))
    together = whole(shown, shown, 0)
    for index in range(2):
        alone = whole(shown[[index]], shown[[index]], 0)
        assert (alone[[1, 3]] > 3 * together[[1, 3]]).all()


def test_the_palette_cost_is_a_sliced_wasserstein_distance() -> None:
    one, other = torch.rand(1, 3, 160, 160) * 255, torch.rand(1, 3, 160, 160) * 120
    found = training.palette_cost(training.palette(one), training.palette(other)).item()
    colours = [
        torch.nn.functional.avg_pool2d(image, training.POOL)[0].flatten(1).T.numpy() / 255
        for image in (one, other)
    ]
    directions = training.DIRECTIONS.numpy()
    assert directions.shape == (13, 3)
    a, b = (np.sort(each @ directions.T, axis=0) for each in colours)
    assert found == pytest.approx(((a - b) ** 2).mean() / b.var(axis=0, ddof=1).mean(), rel=0.05)


def test_a_small_training_learns(tmp_path: Path) -> None:
    run = trainer(replace(RECIPE, steps=80, report_every=20, measure_every=40, average=0.9))
    untaught = run.measure()["held_cost"]
    run.run(tmp_path)
    history = json.loads((tmp_path / "history.json").read_text())
    rows = [row for row in history if "content" in row]
    assert [row["step"] for row in rows] == [20, 40, 60, 80]
    measured = [row for row in history if "held_cost" in row]
    assert [row["step"] for row in measured] == [40, 80]
    assert measured[-1]["held_cost"] < 0.8 * untaught
    assert {f"held_style_{style.name}" for style in STYLES} <= set(measured[0])
    assert decode((tmp_path / "sheet-000080.png").read_bytes()).pixels.shape == (80, 160, 3)
    saved = load(tmp_path / "last.safetensors")
    assert saved.config.styles == STYLES
    torch.testing.assert_close(saved.styles, run.average.styles, rtol=1e-2, atol=1e-2)
    best = min(row["held_cost"] for row in measured)
    assert run.best == best
    assert (tmp_path / "best.safetensors").is_file()
    # the styles have parted
    assert (saved.styles[0] - saved.styles[1]).abs().max() > 0.01


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = trainer()
    whole.run(tmp_path / "whole")
    first = trainer()
    real = Trainer.keep

    def interrupted(run: Trainer, out: Path) -> None:
        real(run, out)
        raise KeyboardInterrupt

    with patch.object(Trainer, "keep", interrupted), pytest.raises(KeyboardInterrupt):
        first.run(tmp_path / "parts")
    second = trainer()
    second.resume(tmp_path / "parts" / "last.pt")
    assert (second.steps, second.progress.value) == (3, pytest.approx(0.5))
    second.run(tmp_path / "parts")
    assert second.steps == 6
    for name, tensor in whole.network.state_dict().items():
        torch.testing.assert_close(second.network.state_dict()[name], tensor, rtol=0.05, atol=0.02)
    assert [row["step"] for row in second.history] == [row["step"] for row in whole.history]


def test_a_new_style_leaves_the_others_as_they_are() -> None:
    network = random_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    style = Style("fourth", "The Fourth")
    one = costs(replace(RECIPE, content_weight=0.1), paintings=1)
    pictures = [picture(40, 56, seed) for seed in range(4)]
    longer = style_add.add(network, style, one, pictures, replace(RECIPE, steps=12, style_rate=0.05))
    assert longer.config.styles == (*STYLES, style)
    for name, tensor in before.items():
        assert torch.equal(network.state_dict()[name], tensor)
        assert torch.equal(longer.state_dict()[name][: len(tensor)], tensor)
    start = before["styles"].mean(dim=0)
    assert not torch.equal(longer.styles[3], start)

    content = training.planes(torch.from_numpy(np.stack([pixels[:40, :40] for pixels in pictures])))
    with torch.no_grad():
        painted = [longer(content, code.expand(4, -1)) for code in (start, longer.styles[3])]
        untaught, taught = (one(each, content, 0) for each in painted)
    assert taught @ one.weights < untaught @ one.weights
    with pytest.raises(ValueError, match="different names"):
        style_add.add(network, STYLES[1], one, pictures, RECIPE)


def test_a_known_style_learns_on_and_the_others_stay() -> None:
    network, one = random_network(), costs(replace(RECIPE, content_weight=0.1), paintings=1)
    pictures = data.WithPlain([picture(40, 56, seed) for seed in range(4)], 0.5, 40)
    recipe = replace(RECIPE, steps=12, style_rate=0.05)
    taught = style_add.add(network, STYLES[1], one, pictures, recipe, again=True, levels_weight=0.1)
    assert taught.config == network.config
    for name, tensor in network.state_dict().items():
        kept = [0, 2] if name == "styles" else slice(None)
        assert torch.equal(taught.state_dict()[name][kept], tensor[kept])
    content = training.planes(torch.from_numpy(np.stack([pixels[:40, :40] for pixels in pictures[:4]])))
    with torch.no_grad():
        before, after = (
            one(each(content, each.styles[[1]].expand(4, -1)), content, 0) for each in (network, taught)
        )
    assert after @ one.weights < before @ one.weights
    with pytest.raises(ValueError, match="not in"):
        style_add.add(network, Style("fourth", "The Fourth"), one, pictures, recipe, again=True)


def test_made_plain_images_stand_behind_the_others() -> None:
    pictures = [picture(40, 56, seed) for seed in range(6)]
    mixed = data.WithPlain(pictures, 0.25, 32)
    assert len(mixed) == 8
    assert all(one is other for one, other in zip(mixed[:6], pictures, strict=True))
    assert mixed[6].shape == (32, 32, 3)
    np.testing.assert_array_equal(mixed[7], data.plain(7, 32))
    assert (mixed[6] != mixed[7]).any()
    for made in mixed[6:]:  # nothing in it but shading and noise
        assert np.abs(np.diff(made.astype(int), n=2, axis=0)).mean() < 10
    assert len(data.WithPlain(pictures, 0, 32)) == 6


def test_the_sheet_shows_every_picture_in_every_style() -> None:
    pictures = [picture(30, 60), picture(60, 30)]
    shown = sheet(random_network(), pictures, 42)
    assert shown.shape == (84, 168, 3)
    assert (shown[:10, :42] == 255).all()  # the first is wide


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("photos", "paintings"):
        (tmp_path / name).mkdir()
    for seed in range(12):
        (tmp_path / "photos" / f"{seed}.png").write_bytes(encode(picture(40, 50, seed), "png"))
    paths = [tmp_path / "paintings" / f"{name}.png" for name in ("one", "two", "three")]
    for path, pixels in zip(paths, PAINTINGS, strict=True):
        path.write_bytes(encode(pixels, "png"))
    common = ["--data", str(tmp_path / "photos"), "--trunk", "unused.pth", "--size", "32", "--batch", "2"]
    common += ["--shortest", "40", "--painting-size", "48", "--steps", "2"]
    classifier = EfficientNetLite()
    classifier.backbone = random_backbone()
    with patch.object(command, "load_classifier", return_value=classifier):
        small = ["--channels", "8", "--quarter-channels", "12", "--blocks", "1", "--sheet-size", "40"]
        out = ["--out", str(tmp_path / "run"), "--paintings", *map(str, paths[:2])]
        out += ["--scale", "one=40", "--part", "two=0,0.2,0.9,1", "--share", "two=3"]
        command.main([*common, *small, *out])
    assert "2 styles" in capsys.readouterr().out
    last = tmp_path / "run" / "last.safetensors"
    classifier.backbone = random_backbone()
    with patch.object(style_add, "load_classifier", return_value=classifier):
        more = tmp_path / "more.safetensors"
        style_add.main([str(last), str(paths[2]), "--title", "Third", "--out", str(more), *common])
    assert "step 2" in capsys.readouterr().out
    two, three = load(last), load(more)
    assert [style.name for style in three.config.styles] == ["one", "two", "three"]
    assert three.config.styles[2].title == "Third"
    assert torch.equal(three.styles[:2], two.styles)
    save(three, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == more.read_bytes()
