"""An offline agent goes on by interaction: the data stay, what is new goes behind them."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from bear_testing import make_bear, make_data
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise

from rlzoo.agents.batch import TD3Batch
from rlzoo.core.dataset_buffer import DatasetBuffer
from rlzoo.core.online_buffer import OnlineBuffer
from rlzoo.errors import RefusedError


class Walk(gym.Env):
    """Steps of the action in three dimensions; cut after ten, ended where it leaves the box."""

    observation_space = make_data().observation_space
    action_space = make_data().action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.t = np.zeros(3, np.float32), 0
        return self.state.copy(), {}

    def step(self, action):
        self.t += 1
        self.state[:2] += action
        self.state[2] = self.t
        return self.state.copy(), float(action[0]), False, self.t == 10, {}


def equal_rows(buffer, expected, start, stop):
    found = {name: tensor[start:stop] for name, tensor in buffer.tensors.items()}
    return all(th.equal(found[name], expected[name]) for name in found)


def test_the_data_stay_and_every_step_is_added():
    model = make_bear().learn(20)
    before = {name: tensor.clone() for name, tensor in model.replay_buffer.tensors.items()}
    updates, rows = model._n_updates, model.replay_buffer.size()
    model.learn_online(35, env=Walk())
    buffer = model.replay_buffer
    assert buffer.size() == rows + 35
    assert model._n_updates == updates + 35
    assert model.num_timesteps == 35
    assert equal_rows(buffer, before, 0, rows)
    added = {name: tensor[rows:] for name, tensor in buffer.tensors.items()}
    # The third coordinate counts: no next observation is the start of another episode, and the
    # time limit of ten is no end.
    assert added["observations"][:, 2].tolist() == [t % 10 for t in range(35)]
    assert added["next_observations"][:, 2].tolist() == [t % 10 + 1 for t in range(35)]
    assert not added["dones"].any()
    moved = added["next_observations"][:, 0] - added["observations"][:, 0]
    assert th.allclose(moved, added["rewards"][:, 0], atol=1e-5)
    assert th.allclose(added["actions"][:, 0], added["rewards"][:, 0], atol=1e-5)


def test_optimisers_and_multiplier_go_on():
    model = make_bear(alpha_learning_rate=1e-2).learn(50)
    log_alpha = model.log_alpha.item()
    steps = model.critic_optimizer.state_dict()["state"][0]["step"].item()
    assert log_alpha != 0
    model.learn_online(3, env=Walk())
    assert model.log_alpha.item() == pytest.approx(log_alpha, abs=0.1)
    assert model.critic_optimizer.state_dict()["state"][0]["step"].item() == steps + 3


def test_the_oldest_addition_makes_room_and_never_the_data():
    model = make_bear().learn(5)
    before = {name: tensor.clone() for name, tensor in model.replay_buffer.tensors.items()}
    rows = model.replay_buffer.size()
    model.learn_online(25, env=Walk(), buffer_size=10)
    assert model.replay_buffer.size() == rows + 10
    assert equal_rows(model.replay_buffer, before, 0, rows)
    counters = model.replay_buffer.tensors["observations"][rows:, 2].tolist()
    assert sorted(counters) == list(range(10))


def test_batches_are_drawn_from_both_and_from_nothing_else():
    buffer = OnlineBuffer(DatasetBuffer(make_data(rows=100)), room=1000)
    one = np.full((1, 3), 77.0)
    for _ in range(100):
        buffer.add(one, one, np.zeros((1, 2)), np.zeros(1), np.zeros(1, bool), [{}])
    drawn = buffer.sample(20_000).observations[:, 0]
    assert (drawn == 77).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert not (drawn == 0).any()


def test_a_time_limit_is_not_an_end_but_a_termination_is():
    buffer = OnlineBuffer(DatasetBuffer(make_data(rows=10)), room=10)
    rows = np.zeros((2, 3))
    infos = [{"TimeLimit.truncated": True}, {"TimeLimit.truncated": False}]
    buffer.add(rows, rows, np.ones((2, 2)), np.zeros(2), np.ones(2, bool), infos)
    assert buffer.tensors["dones"][10:, 0].tolist() == [0, 1]
    assert buffer.tensors["actions"][10:].max() < 1


def test_a_second_call_goes_on_and_offline_updates_are_still_possible(tmp_path):
    model = make_bear().learn(5).learn_online(10, env=Walk())
    rows = model.replay_buffer.size()
    model.learn_online(10, reset_num_timesteps=False)
    assert model.num_timesteps == 20
    assert model.replay_buffer.size() == rows + 10
    model.learn(5)
    model.save_replay_buffer(tmp_path / "both.npz")
    again = make_bear()
    again.load_replay_buffer(tmp_path / "both.npz")
    assert again.replay_buffer.size() == rows + 10


def test_several_environments_and_exploration_noise():
    model = TD3Batch(dataset=make_data(), device="cpu", seed=0, policy_kwargs={"net_arch": [8]})
    noise = NormalActionNoise(np.zeros(2), np.full(2, 0.1))
    model.learn(5).learn_online(40, env=make_vec_env(Walk, 4), action_noise=noise)
    assert model.replay_buffer.n_added == 40


def test_without_an_environment_or_data_it_says_so():
    with pytest.raises(RefusedError, match=r"no environment to interact with.*\n.*set_env"):
        make_bear().learn_online(10)
    with pytest.raises(RefusedError, match="no data set"):
        make_bear(env=Walk()).learn_online(10)
    with pytest.raises(RefusedError, match="out of range"):
        make_bear().learn_online(-1, env=Walk())
