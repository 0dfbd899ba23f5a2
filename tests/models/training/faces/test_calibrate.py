"""The curve against counting, and the command on real pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.errors import ParameterInvalid
from models.training.faces.calibrate import main, plot, report, roc
from tests.models.faces.portraits import FACES, files
from tests.paths import needs_shared

PAIRS = st.lists(
    st.tuples(st.one_of(st.floats(0.001, 2), st.sampled_from([0.25, 0.5])), st.booleans()),
    min_size=2,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.floats(0, 1))
def test_the_curve_counts(pairs: list[tuple[float, bool]], rate: float) -> None:
    distances = np.array([distance for distance, _ in pairs])
    same = np.array([is_same for _, is_same in pairs])
    assume(same.any() and not same.all())
    curve = roc(distances, same)
    for threshold, fmr, tmr in zip(curve.thresholds, curve.fmr, curve.tmr, strict=True):
        assert fmr == pytest.approx((distances[~same] <= threshold).mean())
        assert tmr == pytest.approx((distances[same] <= threshold).mean())
    wins = [(b > a) + 0.5 * (a == b) for a in distances[same] for b in distances[~same]]
    assert curve.auc == pytest.approx(np.mean(wins))

    at = curve.threshold_at(rate)
    assert (distances[~same] <= at).mean() <= rate
    above = distances[distances > at]
    if len(above):  # the next threshold would match too many
        assert (distances[~same] <= above.min()).mean() > rate or above.min() in distances[same]

    best = curve.best(int(same.sum()), int((~same).sum()))
    accuracies = [((distances <= threshold) == same).mean() for threshold in curve.thresholds]
    assert ((distances <= best) == same).mean() >= max(accuracies) - 1e-9


def test_it_needs_pairs_of_both_kinds() -> None:
    for same in ([True, True], [False, False]):
        with pytest.raises(ParameterInvalid):
            roc(np.array([0.1, 0.2]), np.array(same))
    with pytest.raises(ParameterInvalid):
        roc(np.array([0.1, np.nan]), np.array([True, False]))


def test_the_report_says_what_few_pairs_cannot_tell() -> None:
    distances, same = np.array([0.2, 0.4, 0.7, 0.9]), np.array([True, True, False, False])
    text = report(distances, same, 0.6, 0.001)
    assert "2 of one person, 2 of different people" in text
    assert "accuracy              1.0000 at the model's 0.6" in text
    assert "0.5500 for a false-match rate of at most 0.001" in text
    assert "cannot tell from zero" in text


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    plot(roc(np.array([0.2, 0.5, 0.4, 0.9]), np.array([True, True, False, False])), tmp_path / "roc.png")
    assert (tmp_path / "roc.png").read_bytes().startswith(b"\x89PNG")


@needs_shared
def test_the_command_on_people_and_on_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files("mtcnn")
    files("dlib-resnet")
    for person in ("obama", "biden"):
        (tmp_path / "people" / person).mkdir(parents=True)
        for index in (0, 1):
            (tmp_path / "people" / person / f"{index}.jpg").symlink_to(FACES / person / f"{index}.jpg")
    (tmp_path / "people" / "groups").mkdir()
    assert main([str(tmp_path / "people"), "--skip", "groups", "--fmr", "0.01"]) == 0
    said = capsys.readouterr()
    assert "2 of one person, 4 of different people" in said.out
    assert "accuracy              1.0000" in said.out

    pairs = tmp_path / "pairs.csv"
    pairs.write_text(
        "a,b,same\npeople/obama/0.jpg,people/obama/1.jpg,1\npeople/obama/0.jpg,people/biden/0.jpg,0\n"
    )
    assert main([str(pairs), "--plot", str(tmp_path / "roc.png")]) == 0
    assert "1 of one person, 1 of different people" in capsys.readouterr().out
    assert (tmp_path / "roc.png").is_file()


def test_a_csv_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files("mtcnn")
    files("dlib-resnet")
    for text in ("x,y\n1,2\n", "a,b,same\np.jpg,q.jpg,maybe\n", ""):
        (tmp_path / "pairs.csv").write_text(text)
        assert main([str(tmp_path / "pairs.csv")]) == 1
        assert "must have the columns" in capsys.readouterr().err
