"""Faults of environments: cases 2 to 8."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from rlzoo.agents.registry import AGENTS
from rlzoo.envs import check_action_space, check_env_id, make_env, make_vec, policy_for
from rlzoo.errors import RefusedError


def refusal(function: Callable[[], object]) -> str:
    """Call, expect a refusal of at most three lines, and return its message."""
    with pytest.raises(RefusedError) as caught:
        function()
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    assert all(len(line) < 400 for line in message.splitlines())
    return message


class Simple(gym.Env[Any, Any]):
    """A correct environment, to be broken in one aspect by subclasses."""

    def __init__(self, low: float = -1.0, high: float = 1.0) -> None:
        self.observation_space: gym.Space[Any] = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space: gym.Space[Any] = spaces.Box(low, high, (3,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), 0.0, False, False, {}


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], str]:
    """Register an environment class for one test and return its id."""

    def add(entry_point: Callable[..., Any]) -> str:
        monkeypatch.setitem(gym.registry, "Broken-v0", EnvSpec("Broken-v0", entry_point))
        return "Broken-v0"

    return add


# --- cases 2, 3, 4: ids --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "nearest"),
    [("Hoper-v4", "Hopper-v4"), ("hopper-v4", "Hopper-v4"), ("CartPol-v1", "CartPole-v1"),
     ("Half-Cheetah-v4", "HalfCheetah-v4"), ("Hopper-v6", "Hopper-v5")],
)  # fmt: skip
def test_case_02_unknown_id_has_the_nearest_ones(env_id: str, nearest: str) -> None:
    for call in (check_env_id, make_env, make_vec):
        message = refusal(lambda call=call: call(env_id))  # type: ignore[misc]
        assert f"Unknown environment {env_id!r}. Did you mean " in message
        assert repr(nearest) in message


def test_case_02_replaced_ids_are_never_suggested() -> None:
    assert "'Hopper-v2'" not in refusal(lambda: check_env_id("Hoper-v2"))


@pytest.mark.parametrize("env_id", ["", "a b", "../../etc/x-v0", "Hopper-v4;ls", "é-v0"])
def test_case_02_malformed_id(env_id: str) -> None:
    assert repr(env_id) in refusal(lambda: check_env_id(env_id))


def test_case_02_an_id_without_version_is_ambiguous() -> None:
    message = refusal(lambda: check_env_id("Hopper"))
    assert "has no version" in message
    assert "Hopper-v4 or Hopper-v5" in message


@pytest.mark.parametrize("env_id", ["nomodule:Env-v0", "CartPole-v1:", "::", "no.such.module:E-v0"])
def test_case_02_module_that_cannot_be_imported(env_id: str) -> None:
    assert "No module named" in refusal(lambda: check_env_id(env_id))


@pytest.mark.parametrize(
    ("env_id", "module", "command"),
    [
        ("ALE/Pong-v5", "ale_py", 'pip install "rlzoo[atari]"'),
        ("PongNoFrameskip-v4", "ale_py", 'pip install "rlzoo[atari]"'),
        ("MiniGrid-Empty-5x5-v0", "minigrid", 'pip install "minigrid"'),
        ("FetchReach-v4", "gymnasium_robotics", 'pip install "rlzoo[goals]"'),
        ("CarRacing-v3", "Box2D", 'pip install "gymnasium[box2d]"'),
        ("LunarLander-v3", "Box2D", 'pip install "gymnasium[box2d]"'),
        ("phys2d/CartPole-v1", "jax", 'pip install "jax"'),
    ],
)
def test_case_03_missing_package_is_named_with_the_command(
    env_id: str, module: str, command: str
) -> None:
    if importlib.util.find_spec(module):
        pytest.skip(f"{module} is installed here")
    message = refusal(lambda: check_env_id(env_id))
    assert message.splitlines()[-1] == f"Install it with: {command}"


def test_case_03_an_error_without_a_message_gets_type_and_place(
    register: Callable[[Callable[..., Any]], str],
) -> None:
    def raise_nothing(**_: Any) -> None:
        raise AssertionError

    message = refusal(lambda: make_env(register(raise_nothing)))
    assert "cannot be made: AssertionError without a message in " in message
    assert "test_env_faults.py:" in message


def test_case_03_unknown_keyword_argument_of_the_environment() -> None:
    message = refusal(lambda: make_vec("Pendulum-v1", gravity=3))
    assert "unexpected keyword argument 'gravity'" in message
    message = refusal(lambda: make_vec("Pendulum-v1", gravity=3, processes=True))
    assert "unexpected keyword argument 'gravity'" in message


@pytest.mark.parametrize(
    ("old", "successors"),
    [
        ("Hopper-v2", "Hopper-v4 or Hopper-v5"), ("Hopper-v3", "Hopper-v4 or Hopper-v5"),
        ("HumanoidStandup-v2", "HumanoidStandup-v4 or HumanoidStandup-v5"),
        ("CarRacing-v2", "CarRacing-v3"), ("LunarLander-v2", "LunarLander-v3"),
        ("Pendulum-v0", "Pendulum-v1"), ("Taxi-v3", "Taxi-v4"),
        ("Pusher-v4", "Pusher-v5"), ("Pusher-v2", "Pusher-v5"),
    ],
)  # fmt: skip
def test_case_04_old_id_has_its_successor(old: str, successors: str) -> None:
    for call in (check_env_id, make_vec):
        message = refusal(lambda call=call: call(old))  # type: ignore[misc]
        assert "was replaced" in message
        assert message.splitlines()[-1] == f"Successor: {successors}."


# --- cases 5, 6, 7: spaces -----------------------------------------------------------------------

ACCEPTED = {name: spec.action_spaces for name, spec in AGENTS.items()}


@pytest.mark.parametrize(
    ("agent", "env_id", "fits", "does_not"),
    [("sac", "CartPole-v1", ("ppo", "dqn"), "td3"), ("dqn", "Pendulum-v1", ("bear", "sac"), "dqn")],
)
def test_case_05_action_space_that_the_agent_cannot_use(
    agent: str, env_id: str, fits: tuple[str, ...], does_not: str
) -> None:
    vec = make_vec(env_id)
    message = refusal(lambda: check_action_space(ACCEPTED[agent], vec, agent, ACCEPTED))
    assert message.startswith(f"{agent} cannot act in an environment with the action space ")
    last = message.splitlines()[-1]
    assert last.startswith("Agents that fit: ")
    named = last.removeprefix("Agents that fit: ").rstrip(".").split(", ")
    assert set(fits) <= set(named)
    assert does_not not in named
    for name in named:
        check_action_space(ACCEPTED[name], vec, name, ACCEPTED)


@pytest.mark.parametrize(
    ("low", "high", "index", "shown"),
    [
        (-1, np.inf, 1, "[-1, inf]"), (-np.inf, 1, 2, "[-inf, 1]"), (np.nan, 1, 0, "[nan, 1]"),
        (-1, np.nan, 2, "[-1, nan]"), (1, 1, 1, "[1, 1]"), (2, 1, 0, "[2, 1]"),
    ],
)  # fmt: skip
def test_case_06_action_dimension_without_finite_bounds(
    low: float, high: float, index: int, shown: str
) -> None:
    env = Simple()
    space = env.action_space
    assert isinstance(space, spaces.Box)
    check_action_space(("Box",), env)
    space.low[index], space.high[index] = low, high
    message = refusal(lambda: check_action_space(("Box",), env))
    assert f"Dimension {index} of the action space is {shown}." in message


def test_case_06_a_dimension_of_a_matrix_is_named_by_its_index() -> None:
    env = Simple()
    env.action_space = spaces.Box(-1.0, np.array([[1.0, 1.0], [1.0, np.inf]]), (2, 2), np.float64)
    message = refusal(lambda: check_action_space(("Box",), env))
    assert "Dimension (1, 1) of the action space is [-1, inf]." in message


def test_case_07_dict_observation_gets_a_multi_input_policy() -> None:
    assert policy_for(spaces.Dict({"a": spaces.Box(-1, 1, (2,))})) == "MultiInputPolicy"


def test_case_07_observation_that_no_policy_takes() -> None:
    space = make_env("Blackjack-v1").observation_space
    assert "No policy takes the observation space Tuple" in refusal(lambda: policy_for(space))


# --- case 8: the API -----------------------------------------------------------------------------


class OldStep(Simple):
    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), 0.0, False, {}


class OldReset(Simple):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(2, np.float32)


class NoSeed(Simple):
    def reset(self) -> Any:  # type: ignore[override]
        return np.zeros(2, np.float32), {}


class WrongDtype(Simple):
    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float64), 0.0, False, False, {}


class WrongShape(Simple):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(3, np.float32), {}


class OutOfBounds(Simple):
    def step(self, action: Any) -> Any:
        return np.full(2, 5, np.float32), 0.0, False, False, {}


class RewardArray(Simple):
    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), np.zeros(1), False, False, {}


class FlagAsInt(Simple):
    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), 0.0, 0, False, {}


class InfoMissing(Simple):
    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), 0.0, False, False, None


class NoSpaces(Simple):
    def __init__(self) -> None:
        pass


class Crash(Simple):
    def step(self, action: Any) -> Any:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (OldStep, "must return five values"),
        (OldReset, "must return a tuple (obs, info)"),
        (NoSeed, "must accept a `seed` parameter"),
        (WrongDtype, "does not match the data type"),
        (WrongShape, "does not match the shape"),
        (OutOfBounds, "does not match the bounds"),
        (RewardArray, "must be a float"),
        (FlagAsInt, "must be a boolean"),
        (InfoMissing, "must be a python dictionary"),
        (NoSpaces, "space"),
        (Crash, "ZeroDivisionError without a message"),
    ],
)
def test_case_08_broken_api_has_the_first_broken_rule(
    broken: type[Simple], rule: str, register: Callable[[Callable[..., Any]], str]
) -> None:
    message = refusal(lambda: make_vec(register(broken)))
    assert "Broken-v0" in message
    assert rule in message


def test_case_08_a_class_that_is_no_environment(
    register: Callable[[Callable[..., Any]], str],
) -> None:
    message = refusal(lambda: make_vec(register(dict)))
    assert "must inherit from the gymnasium.Env class" in message


def test_case_08_a_correct_environment_is_accepted(
    register: Callable[[Callable[..., Any]], str],
) -> None:
    assert make_vec(register(Simple), n_envs=2).reset().shape == (2, 2)


@pytest.mark.parametrize("n_envs", [0, -1])
def test_case_10_number_of_environments(n_envs: int) -> None:
    assert "n_envs" in refusal(lambda: make_vec("CartPole-v1", n_envs=n_envs))


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "0", True])
def test_case_13_seed(seed: Any) -> None:
    assert "seed" in refusal(lambda: make_vec("CartPole-v1", seed=seed))


def test_an_environment_without_a_split_refuses_one() -> None:
    assert "no split 'test'" in refusal(lambda: make_vec("CartPole-v1", split="test"))
