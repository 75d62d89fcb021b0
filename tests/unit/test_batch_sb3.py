"""TD3 and SAC over a data set do what SB3's own classes do over a buffer of the same rows."""

import numpy as np
import pytest
import stable_baselines3
import torch as th
from bear_testing import make_data

from rlzoo.agents.batch import SACBatch, TD3Batch
from rlzoo.core.dataset_buffer import DatasetBuffer
from rlzoo.core.finite import NonFiniteError
from rlzoo.core.offline import SpacesOnlyVecEnv
from rlzoo.errors import RefusedError

PAIRS = [(TD3Batch, stable_baselines3.TD3), (SACBatch, stable_baselines3.SAC)]
NARROW = {"net_arch": [16, 16]}


def make(cls, **changes):
    arguments = {"dataset": make_data(), "device": "cpu", "seed": 1, "batch_size": 32}
    return cls(policy_kwargs=dict(NARROW), **(arguments | changes))


@pytest.mark.parametrize(("cls", "original"), PAIRS)
def test_updates_equal_those_of_sb3(cls, original):
    steps = 25
    data = make_data()
    batch = make(cls)
    env = SpacesOnlyVecEnv(data.observation_space, data.action_space)
    plain = original(
        "MlpPolicy", env, seed=1, device="cpu", buffer_size=10, batch_size=32,
        policy_kwargs=dict(NARROW),
    )  # fmt: skip
    plain.replay_buffer = DatasetBuffer(data, "cpu")
    plain._setup_learn(0)
    plain.policy.load_state_dict(batch.policy.state_dict())
    th.manual_seed(5)
    batch.learn(steps)
    th.manual_seed(5)
    for _ in range(steps):
        plain.train(gradient_steps=1, batch_size=32)
    expected = plain.policy.state_dict()
    for name, tensor in batch.policy.state_dict().items():
        assert th.equal(tensor, expected[name]), name
    assert batch._n_updates == plain._n_updates == steps


@pytest.mark.parametrize(("cls", "original"), PAIRS)
def test_they_are_sb3s_classes_and_share_its_train(cls, original):
    assert issubclass(cls, original)
    assert cls.train is original.train


@pytest.mark.parametrize(
    ("cls", "changes"),
    [
        (TD3Batch, {"gamma": 0.5}),
        (TD3Batch, {"tau": 0.5}),
        (TD3Batch, {"batch_size": 31}),
        (TD3Batch, {"learning_rate": 1e-2}),
        (TD3Batch, {"policy_delay": 1}),
        (TD3Batch, {"target_policy_noise": 0.5}),
        (TD3Batch, {"target_noise_clip": 0.01}),
        (SACBatch, {"gamma": 0.5}),
        (SACBatch, {"tau": 0.5}),
        (SACBatch, {"ent_coef": 0.3}),
        (SACBatch, {"target_entropy": -7.0}),
    ],
    ids=str,
)
def test_argument_reaches_its_place(cls, changes):
    plain, other = (make(cls, **c).learn(6).policy.state_dict() for c in ({}, changes))
    assert any(not th.equal(plain[name], other[name]) for name in plain)


@pytest.mark.parametrize(
    ("cls", "changes", "message"),
    [
        (TD3Batch, {"gamma": 2}, "TD3Batch: gamma=2 is out of range"),
        (TD3Batch, {"policy_delay": 0}, "policy_delay=0"),
        (SACBatch, {"tau": -1}, "SACBatch: tau=-1"),
    ],
)
def test_out_of_range_arguments_are_refused(cls, changes, message):
    with pytest.raises(RefusedError, match=message):
        make(cls, **changes)


def test_weights_that_are_not_finite_stop_the_training():
    """SAC does not come so far: torch refuses a normal distribution of NaN."""
    model = make(TD3Batch)
    with th.no_grad():
        next(model.critic.parameters()).fill_(np.nan)
    with pytest.raises(NonFiniteError):
        model.learn(100)
