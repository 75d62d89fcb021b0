"""Tables and curves."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from rlzoo.report.curve import draw_curve
from rlzoo.report.tables import markdown_table, number, plus_minus, text_table

POINTS = [(100.0, 10.0, 2.0), (200.0, 40.0, 5.0), (300.0, 90.0, 1.0)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1234.56, "1,234.6"), (-0.04, "-0.0"), (None, "-"), (math.nan, "-"), (math.inf, "inf")],
)
def test_number(value: float | None, expected: str) -> None:
    assert number(value) == expected


def test_plus_minus() -> None:
    assert plus_minus(1000.04, 2.0) == "1,000.0 +- 2.0"
    assert plus_minus(3.0, None) == "3.0"
    assert plus_minus(None, None) == "-"


def test_text_table_is_aligned() -> None:
    assert text_table(("name", "n"), [("a", "1"), ("long name", "1,000")], right=("n",)) == (
        "name           n\n---------  -----\na              1\nlong name  1,000"
    )
    assert text_table(("a", "b"), []) == "a  b\n-  -"


def test_markdown_table_escapes_bars() -> None:
    assert markdown_table(("a", "n"), [("x|y", "1")], right=("n",)) == (
        "| a | n |\n| --- | --: |\n| x\\|y | 1 |"
    )


def test_rows_of_another_length_are_an_error() -> None:
    for table in (text_table, markdown_table):
        with pytest.raises(ValueError, match=r"."):
            table(("a", "b"), [("only one",)])


def test_the_curve_is_a_picture_that_its_data_decide_about(tmp_path: Path) -> None:
    def draw(name: str, points: list, **references: float | None) -> np.ndarray:
        path = draw_curve(points, tmp_path / name, "title", "updates", references)
        assert path == tmp_path / name
        return matplotlib.image.imread(path)

    base = draw("a.png", POINTS, data=50.0, expert=None)
    assert base.std() > 0.05, "something is drawn"
    assert np.array_equal(base, draw("b.png", POINTS, data=50.0))
    wider = [(step, mean, 3 * std) for step, mean, std in POINTS]
    assert not np.array_equal(base, draw("c.png", wider, data=50.0))
    assert not np.array_equal(base, draw("d.png", POINTS))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "c.png", "d.png"]


@pytest.mark.parametrize("points", [[], [(100.0, 1.0, 0.0)], [(1.0, math.nan, math.nan)]])
def test_few_or_missing_points_can_be_drawn(tmp_path: Path, points: list) -> None:
    assert draw_curve(points, tmp_path / "x.png", "t").stat().st_size > 1000


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - any kind
        draw_curve(POINTS, tmp_path / "x.png", "t")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
