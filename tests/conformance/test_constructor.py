"""The constructor is one that SB3's ``load`` and SB3's users can call."""

from __future__ import annotations

import inspect
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from rlzoo.core.offline import SpacesOnlyVecEnv

from .agents import ROWS, Subject, agents_of_the_zoo


def test_every_agent_of_the_zoo_is_in_the_table() -> None:
    missing = [name for name in agents_of_the_zoo() if name not in ROWS]
    assert not missing, f"add to tests/conformance/agents.py: {missing}"
    assert agents_of_the_zoo(), "the registry lists no agent of its own"


def test_signature(agent: Subject) -> None:
    parameters = list(inspect.signature(agent.cls.__init__).parameters.values())[1:]
    assert [p.name for p in parameters[:2]] == ["policy", "env"]
    assert parameters[-1].name == "_init_setup_model"
    assert parameters[-1].default is True
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    assert all(p.default is not p.empty for p in parameters[2:])


def test_names_that_sb3_users_pass(agent: Subject) -> None:
    shared = {"learning_rate", "policy_kwargs", "tensorboard_log", "verbose", "seed", "device"}
    assert shared | {"stats_window_size"} <= set(inspect.signature(agent.cls).parameters)


def test_it_is_an_sb3_algorithm_with_policy_aliases(agent: Subject) -> None:
    assert issubclass(agent.cls, BaseAlgorithm)
    assert issubclass(agent.cls.policy_aliases[agent.row.policy], BasePolicy)


def test_unknown_policy_alias_is_refused_by_name(agent: Subject) -> None:
    with pytest.raises(ValueError, match="Policy NoSuchPolicy unknown"):
        agent.cls("NoSuchPolicy", agent.vec(), device="cpu")


def test_policy_class_instead_of_alias(agent: Subject) -> None:
    policy = agent.cls.policy_aliases[agent.row.policy]
    model = agent.cls(policy, agent.vec(), **agent.settings())
    assert type(model.policy) is policy


def test_every_argument_has_an_attribute(agent: Subject) -> None:
    # `load` restores attributes: an argument that is not kept would silently become the default.
    renamed = {"policy": "policy_class", "stats_window_size": "_stats_window_size"}
    skipped = {"_init_setup_model", "env", *agent.row.unstored}
    model = agent.make()
    names = [n for n in inspect.signature(agent.cls).parameters if n not in skipped]
    assert [n for n in names if not hasattr(model, renamed.get(n, n))] == []


def test_env_by_name(agent: Subject) -> None:
    model = agent.cls(agent.row.policy, agent.row.env_id, **agent.settings())
    assert model.get_env().num_envs == 1
    assert model.observation_space == gym.make(agent.row.env_id).observation_space


def test_without_set_up_nothing_is_built(agent: Subject) -> None:
    # As `load` calls it: no data, no networks, whatever the arguments.
    model = agent.cls(agent.row.policy, agent.vec(), device="cpu", _init_setup_model=False)
    assert not hasattr(model, "policy")
    policy = agent.cls.policy_aliases[agent.row.policy]
    assert agent.cls(policy, None, _init_setup_model=False).env is None


def test_discrete_actions_are_refused_with_sb3s_message(agent: Subject) -> None:
    if agent.spec.action_spaces != ("Box",):
        pytest.skip("accepts other action spaces")
    with pytest.raises((AssertionError, ValueError), match="The algorithm only supports"):
        agent.cls(agent.row.policy, gym.make("CartPole-v1"), **agent.settings())


def test_unbounded_actions_are_refused_with_sb3s_message(agent: Subject) -> None:
    if "Box" not in agent.spec.action_spaces:
        pytest.skip("takes no continuous actions")

    class Unbounded(gym.ActionWrapper):
        def __init__(self) -> None:
            super().__init__(gym.make("Pendulum-v1"))
            self.action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

        def action(self, action: np.ndarray) -> np.ndarray:
            return action

    with pytest.raises((AssertionError, ValueError), match="finite lower and upper bound"):
        agent.cls(agent.row.policy, Unbounded(), **agent.settings())


def test_everything_is_on_the_device_that_was_asked_for(agent: Subject) -> None:
    model = agent.make(device="cpu")
    assert model.device == th.device("cpu")
    assert {p.device.type for p in model.policy.parameters()} == {"cpu"}


def test_policy_kwargs_reach_the_networks(agent: Subject) -> None:
    narrow, wide = (
        agent.make(),
        agent.make(policy_kwargs={**agent.row.settings["policy_kwargs"], "net_arch": [13, 13]}),
    )
    shapes = {tuple(p.shape) for p in wide.policy.parameters()}
    assert any(13 in shape for shape in shapes)
    assert not any(13 in p.shape for p in narrow.policy.parameters())


def test_policy_kwargs_of_the_caller_are_not_needed_afterwards(agent: Subject) -> None:
    model = agent.make()
    assert pickle.loads(pickle.dumps(model.policy_kwargs)) == model.policy_kwargs


def test_data_without_an_environment(offline_agent: Subject) -> None:
    arguments = {**offline_agent.settings(), **offline_agent.data_arguments()}
    model = offline_agent.cls("MlpPolicy", None, **arguments)
    assert isinstance(model.get_env(), SpacesOnlyVecEnv)
    assert offline_agent.learn(model).num_timesteps == offline_agent.steps


def test_data_of_other_spaces_are_refused(offline_agent: Subject) -> None:
    other = offline_agent.data(offline_agent.row.wrong_env_id)
    with pytest.raises(ValueError, match="space"):
        offline_agent.make().set_dataset(other)  # type: ignore[attr-defined]


def test_learning_without_data_says_what_is_missing(offline_agent: Subject) -> None:
    model = offline_agent.cls("MlpPolicy", offline_agent.vec(), **offline_agent.settings())
    with pytest.raises(ValueError, match=r"no data set[\s\S]*set_dataset"):
        model.learn(1)
