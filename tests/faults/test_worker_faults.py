"""Case 38: an environment crashes or hangs in the middle of training. Real processes throughout."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import failing_envs  # noqa: F401 - registers the environment for those made in this process
import numpy as np
import pytest
from stable_baselines3 import PPO

from rlzoo.core.seeding import stream
from rlzoo.envs import EnvFailedError, TrainingVecEnv, make_vec, workers
from rlzoo.errors import FailedError, RefusedError

ENV = "failing_envs:Failing-v0"
VICTIM = stream(0, "env", 1)
ACTIONS = np.arange(6, dtype=np.float32).reshape(3, 2) / 8
BOTH = pytest.mark.parametrize("processes", [False, True])


@pytest.fixture(scope="module", autouse=True)
def quick_workers() -> None:
    """Import the heavy packages once instead of once per worker."""
    multiprocessing.set_forkserver_preload(["stable_baselines3.common.vec_env.subproc_vec_env"])


@pytest.fixture
def failing() -> Iterator[Callable[..., TrainingVecEnv]]:
    """Make three environments, of which number 1 fails; closing them must not take long."""
    made: list[TrainingVecEnv] = []

    def make(
        how: str = "", processes: bool = True, timeout: float | None = None, **kwargs: Any
    ) -> TrainingVecEnv:
        vec = make_vec(ENV, 3, processes=processes, how=how, victim=VICTIM, **kwargs)
        made.append(TrainingVecEnv(vec, timeout))
        return made[-1]

    yield make
    for vec in made:
        close_quickly(vec)


def close_quickly(vec: TrainingVecEnv, limit: float = workers.CLOSE_SECONDS - 1) -> None:
    processes = getattr(vec.unwrapped, "processes", [])
    started = time.monotonic()
    vec.close()
    vec.close()
    assert time.monotonic() - started < limit
    assert not any(process.is_alive() for process in processes)


def failure(function: Callable[[], object]) -> EnvFailedError:
    """Call, expect a failure of at most three lines, and return it."""
    with pytest.raises(EnvFailedError) as caught:
        function()
    lines = str(caught.value).splitlines()
    assert 2 <= len(lines) <= 3
    assert all(len(line) < 300 for line in lines)
    assert caught.value.exit_code == 1
    return caught.value


def closed(folder: Path) -> set[int]:
    """Which of the three were closed properly (the one that is only checked has another seed)."""
    return {i for i in range(3) if (folder / f"closed-{stream(0, 'env', i)}").exists()}


def run(vec: TrainingVecEnv, steps: int = 30) -> None:
    vec.reset()
    for number in range(1, steps + 1):
        vec.step(ACTIONS / number)


@BOTH
def test_case_38_crash_in_step(failing: Callable[..., TrainingVecEnv], processes: bool) -> None:
    vec = failing("raise", processes, at=12)
    error = failure(lambda: run(vec))
    assert str(error).splitlines() == [
        "Environment 1 (of 0 to 2) failed in step: KeyError: 'no such joint\\nsecond line'.",
        f"Last seeded with {VICTIM}, 2 episodes and 12 steps ago; last action: [0.0208, 0.0312].",
    ]
    assert (error.index, error.seed, error.step) == (1, VICTIM, 12)
    np.testing.assert_array_equal(error.action, ACTIONS[1] / 12)
    assert isinstance(error, FailedError)


@BOTH
def test_case_38_the_traceback_of_the_environment_is_chained(
    failing: Callable[..., TrainingVecEnv], processes: bool
) -> None:
    error = failure(lambda: run(failing("raise", processes, at=2)))
    shown = "".join(traceback.format_exception(error))
    assert "failing_envs.py" in shown
    assert 'raise KeyError("no such joint' in shown
    assert error.__cause__ is not None
    assert isinstance(error.__cause__, KeyError) != processes


@BOTH
def test_case_38_crash_in_the_first_reset(
    failing: Callable[..., TrainingVecEnv], processes: bool
) -> None:
    error = failure(lambda: run(failing("raise", processes, call="reset", at=0)))
    assert "Environment 1 (of 0 to 2) failed in reset: KeyError: " in str(error)
    assert "0 episodes and 0 steps ago; last action: none." in str(error)
    assert (error.index, error.seed, error.step, error.action) == (1, VICTIM, 0, None)


@BOTH
def test_case_38_crash_in_the_reset_between_episodes(
    failing: Callable[..., TrainingVecEnv], processes: bool
) -> None:
    vec = failing("raise nothing", processes, call="reset", at=10)
    error = failure(lambda: run(vec))
    assert "failed in reset: ArithmeticError without a message in " in str(error)
    assert "failing_envs.py:" in str(error)
    assert (error.index, error.seed, error.step) == (1, VICTIM, 10)
    # What was done until then can be replayed: the step that failed does not count.
    assert len(vec.actions_since_barrier()) == 9


@BOTH
def test_case_38_an_error_that_no_process_can_send(
    failing: Callable[..., TrainingVecEnv], processes: bool
) -> None:
    vec = failing("raise something that no process can send", processes, at=3)
    assert "LocalError: <function" in str(failure(lambda: run(vec)))


def test_case_38_the_error_itself_can_be_sent(failing: Callable[..., TrainingVecEnv]) -> None:
    error = failure(lambda: run(failing("raise", False, at=3)))
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.index, copy.seed, copy.step) == (1, VICTIM, 3)


@BOTH
def test_case_38_the_number_counts_from_the_last_seeding(
    failing: Callable[..., TrainingVecEnv], processes: bool
) -> None:
    vec = failing("raise", processes, at=20)
    vec.reset()
    for _ in range(13):
        vec.step(ACTIONS)
    vec.barrier([5, VICTIM, 6])
    for _ in range(6):
        vec.step(ACTIONS)
    error = failure(lambda: vec.step(ACTIONS))
    assert error.step == 7
    assert f"Last seeded with {VICTIM}, 1 episodes and 7 steps ago" in str(error)


@BOTH
def test_case_38_training_ends_with_the_error_and_later_calls_repeat_it(
    failing: Callable[..., TrainingVecEnv], processes: bool
) -> None:
    vec = failing("raise", processes, at=9)
    model = PPO("MlpPolicy", vec, n_steps=4, batch_size=4, n_epochs=1, device="cpu")
    error = failure(lambda: model.learn(1000))
    assert (error.index, error.step) == (1, 9)
    for call in (vec.reset, lambda: vec.step(ACTIONS), lambda: vec.barrier([1, 2, 3])):
        assert failure(call) is error


@BOTH
def test_case_38_the_other_environments_are_closed(
    failing: Callable[..., TrainingVecEnv], processes: bool, tmp_path: Path
) -> None:
    vec = failing("raise", processes, at=3, folder=str(tmp_path))
    failure(lambda: run(vec))
    vec.close()
    assert closed(tmp_path) == {0, 1, 2}


@BOTH
def test_case_38_closing_one_that_raises_closes_the_others(
    failing: Callable[..., TrainingVecEnv], processes: bool, tmp_path: Path
) -> None:
    vec = failing("raise in close", processes, folder=str(tmp_path))
    run(vec, 2)
    vec.close()
    assert closed(tmp_path) == {0, 1, 2}


# --- processes that die --------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["step", "reset"])
@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("kill", "its process was ended by SIGKILL"),
        ("exit", "its process ended with exit code 7"),
        ("sys.exit", "its process ended with exit code 3"),
    ],
)
def test_case_38_a_process_that_ends_itself(
    failing: Callable[..., TrainingVecEnv], how: str, text: str, call: str
) -> None:
    error = failure(lambda: run(failing(how, call=call, at=5)))
    assert f"Environment 1 (of 0 to 2) failed in step: {text}." in str(error)
    assert (error.index, error.seed, error.step) == (1, VICTIM, 5)
    assert ("no memory left" in str(error)) == (how == "kill")


@pytest.mark.parametrize("timeout", [None, 20.0])
def test_case_38_a_process_that_is_killed_between_two_steps(
    failing: Callable[..., TrainingVecEnv], timeout: float | None
) -> None:
    vec = failing(timeout=timeout)
    run(vec, 4)
    process = vec.unwrapped.processes[2]
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    error = failure(lambda: vec.step(ACTIONS))
    assert "Environment 2 (of 0 to 2) failed in step: its process was ended by SIGTERM" in str(
        error
    )
    assert (error.index, error.step) == (2, 5)
    np.testing.assert_array_equal(error.action, ACTIONS[2])


def test_case_38_a_dead_process_without_the_wrapper_has_a_name_too() -> None:
    vec: Any = make_vec(ENV, 3, processes=True)
    vec.reset()
    vec.processes[0].kill()
    vec.processes[0].join()
    error = failure_of_any_length(vec.get_attr, "steps")
    assert "Environment 0 (of 0 to 2) failed in get_attr" in str(error)
    vec.close()


def failure_of_any_length(function: Callable[..., object], *arguments: Any) -> EnvFailedError:
    with pytest.raises(EnvFailedError) as caught:
        function(*arguments)
    return caught.value


# --- processes that hang -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["hang", "hang and ignore SIGTERM"])
@pytest.mark.parametrize("call", ["step", "reset"])
def test_case_38_a_process_that_hangs(
    failing: Callable[..., TrainingVecEnv], how: str, call: str, tmp_path: Path
) -> None:
    vec = failing(how, timeout=1.5, call=call, at=5, folder=str(tmp_path))
    error = failure(lambda: run(vec))
    assert "Environment 1 (of 0 to 2) failed in step: no answer within 1.5 s." in str(error)
    assert "raise the timeout" in str(error)
    assert (error.index, error.seed, error.step) == (1, VICTIM, 5)
    vec.close()
    assert closed(tmp_path) == {0, 2}


def test_case_38_a_process_that_is_stopped(failing: Callable[..., TrainingVecEnv]) -> None:
    vec = failing(timeout=1.0)
    run(vec, 3)
    os.kill(vec.unwrapped.processes[0].pid, signal.SIGSTOP)
    error = failure(lambda: vec.barrier([1, 2, 3]))
    assert "Environment 0 (of 0 to 2) failed in reset: no answer within 1 s." in str(error)
    assert (error.seed, error.step, error.action) == (1, 0, None)


def test_case_38_several_that_are_stopped(
    failing: Callable[..., TrainingVecEnv], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only the first is known when the others are to be closed, and SIGTERM waits while stopped."""
    vec = failing(timeout=1.0, folder=str(tmp_path))
    run(vec, 3)
    for index in (0, 2):
        os.kill(vec.unwrapped.processes[index].pid, signal.SIGSTOP)
    assert failure(lambda: vec.step(ACTIONS)).index == 0
    monkeypatch.setattr(workers, "CLOSE_SECONDS", 1.0)
    close_quickly(vec)
    assert closed(tmp_path) == {1}


def test_case_38_closing_takes_the_answer_that_fills_the_pipe(
    failing: Callable[..., TrainingVecEnv], tmp_path: Path
) -> None:
    vec = failing(size=300_000, folder=str(tmp_path))
    vec.reset()
    vec.step_async(ACTIONS)
    close_quickly(vec)
    assert closed(tmp_path) == {0, 1, 2}


def test_case_38_a_slow_learner_is_not_a_late_environment(
    failing: Callable[..., TrainingVecEnv],
) -> None:
    vec = failing(timeout=30.0)
    vec.reset()
    vec.step_async(ACTIONS)
    base: Any = vec.unwrapped
    assert all(pipe.connection.poll(30) for pipe in base.remotes)
    base.timeout = 1e-9  # The time is over, and the answers are there.
    vec.step_wait()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_case_38_timeout_out_of_range(timeout: float) -> None:
    vec = make_vec(ENV)
    with pytest.raises(RefusedError, match=r"timeout=.* is out of range"):
        TrainingVecEnv(vec, timeout)


def test_case_38_ctrl_c_does_not_end_the_workers(failing: Callable[..., TrainingVecEnv]) -> None:
    """Ctrl-C goes to all processes of a terminal; the training saves before it ends."""
    vec = failing()
    run(vec, 2)
    for process in vec.unwrapped.processes:
        os.kill(process.pid, signal.SIGINT)
    run(vec, 3)


# --- while they are made -------------------------------------------------------------------------


def refusal(function: Callable[[], object]) -> str:
    with pytest.raises(RefusedError) as caught:
        function()
    assert len(str(caught.value).splitlines()) <= 3
    assert not multiprocessing.active_children()
    return str(caught.value)


def test_case_38_crash_while_one_copy_is_made(tmp_path: Path) -> None:
    # The first copy of all is the one that is only checked.
    arguments: Any = {"how": "raise", "call": "make", "at": 2, "folder": str(tmp_path)}
    message = refusal(lambda: make_vec(ENV, 3, **arguments))
    assert message.startswith(f"Copy 1 of 0 to 2: Environment {ENV!r} cannot be made: 'no such")
    assert (tmp_path / "closed--2").exists()  # Copy 0, which was never reset.


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("raise", f"Environment {ENV!r} cannot be made: 'no such joint\\nsecond line'."),
        ("exit", "its process ended with exit code 7."),
        ("kill", "its process was ended by SIGKILL."),
    ],
)
def test_case_38_crash_while_one_copy_is_made_in_its_process(
    tmp_path: Path, how: str, text: str, at: int
) -> None:
    arguments: Any = {"how": how, "call": "make", "at": at, "folder": str(tmp_path)}
    message = refusal(lambda: make_vec(ENV, 3, processes=True, **arguments))
    # The copies start together, so which of them is number two is open.
    assert message.split(" (of 0 to 2) ")[0] in {f"Environment {i}" for i in range(3)}
    assert f" cannot be made: {text}" in message
    assert (tmp_path / "closed--2").exists()
