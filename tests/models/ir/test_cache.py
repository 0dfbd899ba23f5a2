"""Networks are converted once, by the process that starts first; a damaged file is made again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import WeightsError
from models.ir.cache import UNUSED_DAYS, Cache
from models.ir.convert import pack, unpack
from models.ir.network import Networks
from models.pipeline import eager
from tests.paths import ROOT
from tests.service.doubles import SHAPE, MeanPipeline


def images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), np.uint8)


class Counting(MeanPipeline):
    """Counts how often it is converted."""

    identity = "1" * 64

    def __init__(self) -> None:
        super().__init__()
        self.conversions = 0
        forward = self.module.forward

        def counted(*inputs: object) -> object:
            self.conversions += 1
            return forward(*inputs)

        self.module.forward = counted  # type: ignore[method-assign]


def test_the_second_start_converts_nothing(tmp_path: Path) -> None:
    wanted = eager(MeanPipeline().module, images(3))
    for conversions in (1, 0):
        pipeline = Counting()
        found = Networks(pipeline, "float32", 1, Cache(tmp_path)).run([images(3)])
        assert pipeline.conversions == conversions
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_network_outlives_its_file(tmp_path: Path) -> None:
    wanted = Networks(Counting(), "float32", 1, Cache(tmp_path)).run([images(4)])
    networks = Networks(Counting(), "float32", 1, Cache(tmp_path))
    networks.run([images(4)])
    shutil.rmtree(tmp_path)
    np.testing.assert_array_equal(networks.run([images(4)])[0], wanted[0])


def test_another_precision_takes_the_same_conversion(tmp_path: Path) -> None:
    Networks(Counting(), "float32", 1, Cache(tmp_path)).run([images(1)])
    pipeline = Counting()
    Networks(pipeline, "bfloat16", 1, Cache(tmp_path)).run([images(1)])
    assert pipeline.conversions == 0
    assert [path.suffix for path in sorted(tmp_path.iterdir())].count(".ir") == 1


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damaged_files_are_made_again(damage: str, tmp_path: Path) -> None:
    wanted = Networks(Counting(), "float32", 1, Cache(tmp_path)).run([images(2)])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 2
    for path, data in before.items():
        flipped = data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
        path.write_bytes({"cut": data[:-1], "flip": flipped, "empty": b""}[damage])
    pipeline = Counting()
    found = Networks(pipeline, "float32", 1, Cache(tmp_path)).run([images(2)])
    assert pipeline.conversions == 1
    np.testing.assert_array_equal(found[0], wanted[0])
    again = Counting()
    Networks(again, "float32", 1, Cache(tmp_path)).run([images(2)])
    assert again.conversions == 0


def test_other_weights_or_code_are_another_network(tmp_path: Path) -> None:
    Networks(Counting(), "float32", 1, Cache(tmp_path)).run([images(1)])
    other = Counting()
    other.identity = "2" * 64
    Networks(other, "float32", 1, Cache(tmp_path)).run([images(1)])
    assert other.conversions == 1
    unknown = Counting()
    unknown.identity = ""
    Networks(unknown, "float32", 1, Cache(tmp_path)).run([images(1)])
    assert unknown.conversions == 1
    assert len(list(tmp_path.iterdir())) == 4  # of the unknown one nothing is kept


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    (mean, _) = Networks(Counting(), "float32", 1, Cache(place / "networks")).run([images(1)])
    assert mean.shape == (1, 3)


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from models.ir.cache import Cache; from models.ir.network import Networks\n"
        "from tests.models.ir.test_cache import Counting, images\n"
        "print(Networks(Counting(), 'float32', 1, Cache(Path(sys.argv[1]))).run([images(1)])[0].tolist())\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    answers = [one.communicate(timeout=300)[0] for one in both]
    assert answers[0] == answers[1] != b""
    assert {path.suffix for path in tmp_path.iterdir()} == {".ir", ".compiled"}


def test_what_nothing_has_used_for_long_is_removed(tmp_path: Path) -> None:
    for name, days in (("old", UNUSED_DAYS + 1), ("used", UNUSED_DAYS - 1)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (then := time.time() - days * 86_400, then))
    Networks(Counting(), "float32", 1, Cache(tmp_path)).run([images(1)])
    assert not (tmp_path / "old").exists()
    assert (tmp_path / "used").exists()


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no packed OpenVINO network"):
        unpack(b"anything else")


def test_a_packed_network_is_the_same_network() -> None:
    import openvino

    from models.ir.convert import Port, convert

    network = convert(MeanPipeline().module, [Port(SHAPE, np.uint8)])
    again = unpack(pack(network, {"weights": "0" * 64}))
    compiled = openvino.Core().compile_model(again, "CPU")
    (mean, _) = compiled(images(2)).values()
    np.testing.assert_allclose(mean, eager(MeanPipeline().module, images(2))[0], rtol=1e-6)
