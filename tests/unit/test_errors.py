import copy
import pickle

import pytest

from rlzoo.core.finite import NonFiniteError
from rlzoo.envs.guard import EnvFailedError
from rlzoo.errors import FailedError, RefusedError, RlzooError, did_you_mean, nearest
from rlzoo.runs.signals import StoppedError


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


def test_errors_with_arguments_of_their_own_travel_as_well() -> None:
    """Ray tasks and worker processes send them as pickles."""
    bad = NonFiniteError(7, {"loss": "1 NaN"}, 3)
    bad.todo = "Look."
    errors = [
        bad,
        StoppedError(15, "Stopped.", todo="Go on."),
        EnvFailedError("Failed.", "Here.", "So.", index=2, seed=1, step=5, action=None),
        RefusedError("No.", "Yes."),
    ]
    for error in errors:
        received = pickle.loads(pickle.dumps(error))
        assert type(received) is type(error)
        assert str(received) == str(error)
        assert received.exit_code == error.exit_code
    assert pickle.loads(pickle.dumps(errors[2])).index == 2
