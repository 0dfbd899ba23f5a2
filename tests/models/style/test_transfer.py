"""The style network: its layers against the plain ones, its styles, its file, and OpenVINO."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.builders.style import build
from models.errors import WeightsError
from models.ir.network import Networks
from models.pipeline import Card, Kind, Pipeline, eager
from models.style.config import StyleConfig
from models.style.pipeline import StylePipeline
from models.style.transfer import (
    MARGIN,
    ConditionalNorm,
    ReflectConv,
    ResizeConv,
    ServedStyleNetwork,
    load,
    save,
)
from models.weights import Entry, File, sha256_of
from tests.models.style.small import STYLES, picture, random_network


@pytest.mark.parametrize("kernel", [3, 7])
def test_a_resize_convolution_is_what_its_name_says(kernel: int) -> None:
    layer, inputs = ResizeConv(3, 4, kernel), torch.randn(2, 3, 11, 12)
    enlarged = F.interpolate(inputs, scale_factor=2, mode="bilinear", align_corners=False)
    plain = F.conv2d(enlarged, layer.weight, layer.bias, padding=kernel // 2)
    result = layer(inputs)
    assert result.shape == (2, 4, 22, 24)
    edge = 5  # there the two differ in what lies beyond
    inner = (..., slice(edge, -edge), slice(edge, -edge))
    torch.testing.assert_close(result[inner], plain[inner], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [ResizeConv(3, 4, 3), ResizeConv(3, 4, 7), ReflectConv(3, 4, 5, 2)])
def test_an_even_surface_stays_even(layer: torch.nn.Module) -> None:
    """No checkerboard, and no frame."""
    result = layer(torch.tensor((3.0, -1.0, 2.0))[None, :, None, None].expand(1, 3, 8, 8))
    torch.testing.assert_close(result, result[:, :, :1, :1].expand_as(result))


def test_a_conditional_norm_gives_each_picture_its_own_moments() -> None:
    scale, shift = torch.rand(2, 5) + 0.5, torch.randn(2, 5)
    result = ConditionalNorm()(3 + 7 * torch.randn(2, 5, 16, 16), scale, shift)
    torch.testing.assert_close(result.mean(dim=(2, 3)), shift, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(result.std(dim=(2, 3), correction=0), scale, rtol=1e-3, atol=1e-4)


@settings(max_examples=8, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12))
def test_any_multiple_of_four_has_its_size(rows: int, columns: int) -> None:
    network = random_network()
    with torch.no_grad():
        result = network(torch.rand(1, 3, 4 * rows, 4 * columns) * 255, network.styles[:1])
    assert result.shape == (1, 3, 4 * rows, 4 * columns)
    assert 0 <= result.min() <= result.max() <= 255


def batch(styles: list[list[int]], height: int = 48, width: int = 64) -> Tensor:
    """One picture once for every row of weights, with these in the last row."""
    canvases = np.zeros((len(styles), height + 1, width, 3), np.uint8)
    canvases[:, :height] = picture(height, width)
    for canvas, weights in zip(canvases, styles, strict=True):
        canvas[height, : len(weights), 0] = weights
    return torch.from_numpy(canvases)


ALONE = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_different_styles_share_a_batch() -> None:
    stylist = ServedStyleNetwork(random_network())
    with torch.inference_mode():
        together = stylist(batch(ALONE))
        assert together.dtype == torch.uint8
        assert together.shape == (3, 48, 64, 3)
        for index, weights in enumerate(ALONE):
            alone = stylist(batch([weights]))[0]
            # sums in another order: one level, from rounding
            assert (alone.int() - together[index].int()).abs().max() <= 1
    assert all((together[a].int() - together[b].int()).abs().float().mean() > 3 for a, b in ((0, 1), (1, 2)))


def test_styles_mix_by_their_weights() -> None:
    network = random_network()
    with torch.inference_mode():
        mixed = ServedStyleNetwork(network)(batch([[100, 50, 0]]))
        code = (2 * network.styles[0] + network.styles[1]) / 3
        pictures = batch([[0]])[:, :-1].permute(0, 3, 1, 2).float()
        padded = F.pad(pictures, (MARGIN,) * 4, mode="reflect")
        expected = network(padded, code[None])[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
    torch.testing.assert_close(mixed.permute(0, 3, 1, 2).float(), expected, rtol=0, atol=0.51)
    with torch.inference_mode():
        assert ServedStyleNetwork(network)(batch([[0, 0, 0]])).shape == (
            1,
            48,
            64,
            3,
        )  # as when a model is warmed


def test_openvino_paints_the_same_picture_of_any_size_from_one_conversion() -> None:
    stylist, items = ServedStyleNetwork(random_network()).eval(), batch(ALONE)
    card = Card("styles", Kind.STYLE, "", "")
    networks = Networks(StylePipeline(card, lambda: stylist, STYLES), "float32", threads=1)
    for sized in (items, items[:, 16:, 8:], items.repeat_interleave(2, dim=2)):
        (expected,) = eager(stylist, sized.numpy())
        (result,) = networks.run([sized.numpy()])
        assert result.dtype == np.uint8
        assert result.shape == expected.shape
        assert np.abs(result.astype(int) - expected).max() <= 1


def test_a_file_holds_all(tmp_path: Path) -> None:
    network = random_network()
    save(network, tmp_path / "styles.safetensors")
    again = load(tmp_path / "styles.safetensors")
    assert again.config == network.config
    assert again.config.styles[0].thumbnail.startswith(b"\xff\xd8")
    assert not again.training
    state = again.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="bad"):
        load(path)
    with pytest.raises(ValueError, match="different names"):
        StyleConfig((STYLES[0], STYLES[0]))


def test_the_catalogue_builds_it(tmp_path: Path) -> None:
    path = tmp_path / "styles.safetensors"
    save(random_network(), path)
    file = File("file", str(path), sha256_of(path))
    entry = Entry("styles", Kind.STYLE, "style", "Apache-2.0", {"weights": file}, {"buckets": [[64, 96]]})
    pipeline = build(entry, {"weights": path})
    assert isinstance(pipeline, Pipeline)
    assert pipeline.card.task is Kind.STYLE
    assert pipeline.card.labels == ("dots", "lines", "waves")
    assert pipeline.shapes == ((65, 96, 3),)
    assert [style.title for style in pipeline.styles] == ["Dots", "Lines", "Waves"]
