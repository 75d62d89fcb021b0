import copy
import pickle

import pytest

from rlzoo.errors import FailedError, RefusedError, RlzooError, did_you_mean, nearest


def test_a_message_is_the_lines_that_there_are() -> None:
    assert str(RefusedError("given", "", "todo")) == "given\ntodo"


def test_a_line_that_is_set_later_is_in_the_message() -> None:
    """A run that breaks off adds where it left its state."""
    error = FailedError("given")
    error.todo = "The state is in x."
    assert str(error) == "given\nThe state is in x."


@pytest.mark.parametrize("duplicate", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_errors_travel_between_processes(duplicate) -> None:
    error = duplicate(RefusedError("a", "b", "c"))
    assert (error.given, error.allowed, error.todo, str(error)) == ("a", "b", "c", "a\nb\nc")


def test_exit_codes_and_python_classes() -> None:
    assert (RefusedError("x").exit_code, FailedError("x").exit_code) == (2, 1)
    assert isinstance(RefusedError("x"), ValueError)
    assert isinstance(FailedError("x"), RuntimeError)
    assert isinstance(RefusedError("x"), RlzooError)


def test_nearest_ignores_case_and_far_names() -> None:
    assert nearest("hopper-V4", ["Hopper-v4", "Ant-v4"])[0] == "Hopper-v4"
    assert nearest("zzz", ["Hopper-v4"]) == []
    assert did_you_mean("bera", ["bear", "sac"]) == "Did you mean 'bear'?"
    assert did_you_mean("zzz", ["bear"]) == ""
