"""Ranges and choices that are read from annotations."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Optional, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlzoo.core.arguments import (
    AT_LEAST_ONE,
    NON_NEGATIVE,
    POSITIVE,
    UNIT,
    Range,
    check_arguments,
    check_range,
    choices_of,
    ranges_of,
)
from rlzoo.errors import RefusedError


def example(
    plain: Annotated[float, UNIT],
    optional: Annotated[int, AT_LEAST_ONE] | None = None,
    schedule: Annotated[float, POSITIVE] | Callable[[float], float] = 1e-3,
    nested: Optional[Union[Annotated[float, NON_NEGATIVE], str]] = None,  # noqa: UP007, UP045
    mode: Literal["fast", "slow"] = "fast",
    number_or_mode: Annotated[float, POSITIVE] | Literal["auto"] = 1.0,
    path_or_mode: str | Literal["auto"] = "auto",
    layers: Sequence[Annotated[int, AT_LEAST_ONE]] = (1,),
    flag: bool = False,
) -> None: ...


@pytest.mark.parametrize(
    ("range_", "inside", "outside"),
    [
        (UNIT, [0, 0.5, 1], [-1e-9, 1.5, math.nan, math.inf]),
        (POSITIVE, [1e-30, math.inf], [0, -1, math.nan]),
        (NON_NEGATIVE, [0, 3], [-1e-30]),
        (AT_LEAST_ONE, [1, 10**9], [0, -5, 0.99]),
        (Range(0, 1, low_open=True, high_open=True), [0.5], [0, 1]),
        (Range(), [-math.inf, 0, math.inf], [math.nan]),
    ],
)
def test_membership(range_, inside, outside):
    assert all(value in range_ for value in inside)
    assert not any(value in range_ for value in outside)


@given(low=st.floats(-100, 100), width=st.floats(0, 100), value=st.floats(-300, 300))
def test_membership_is_comparison(low, width, value):
    high = low + width
    assert (value in Range(low, high)) == (low <= value <= high)
    assert (value in Range(low, high, True, True)) == (low < value < high)


def test_text_shows_open_ends():
    assert str(UNIT) == "[0, 1]"
    assert str(POSITIVE) == "(0, inf)"
    assert str(Range(0, 1, high_open=True)) == "[0, 1)"
    assert str(Range()) == "(-inf, inf)"


def test_ranges_are_found_in_nested_annotations():
    assert ranges_of(example) == {
        "plain": UNIT, "optional": AT_LEAST_ONE, "schedule": POSITIVE,
        "nested": NON_NEGATIVE, "number_or_mode": POSITIVE, "layers": AT_LEAST_ONE,
    }  # fmt: skip


def test_choices_are_found_unless_any_string_will_do():
    assert choices_of(example) == {"mode": ["fast", "slow"], "number_or_mode": ["auto"]}


@pytest.mark.parametrize(
    "values",
    [
        {"plain": 0.5, "optional": None, "schedule": lambda _: 1.0, "nested": "text"},
        {"mode": "slow", "number_or_mode": "auto", "path_or_mode": "/tmp/x", "flag": True},
        {"number_or_mode": 2, "layers": [1, 2], "unknown": -1},
        {"plain": True},  # a bool is left to the type check
    ],
)
def test_good_values_pass(values):
    check_arguments(example, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"plain": 1.5}, r"Owner: plain=1.5 is out of range.\nAllowed: \[0, 1\]."),
        ({"plain": math.nan}, "plain=nan is out of range"),
        ({"optional": 0}, r"optional=0 is out of range.\nAllowed: \[1, inf\)."),
        ({"schedule": 0.0}, r"schedule=0.0 is out of range.\nAllowed: \(0, inf\)."),
        ({"mode": "slwo"}, "mode='slwo' is not known.\nAllowed: 'fast', 'slow'.\nDid you mean 's"),
        ({"number_or_mode": "autp"}, "number_or_mode='autp' is not known"),
        ({"number_or_mode": -1}, "number_or_mode=-1 is out of range"),
    ],
)
def test_case_10_bad_values_are_refused(values, message):
    with pytest.raises(RefusedError, match=message):
        check_arguments(example, values, owner="Owner")


def test_check_range_without_an_owner():
    with pytest.raises(RefusedError, match=r"^tau=2 is out of range"):
        check_range("tau", 2, UNIT)
