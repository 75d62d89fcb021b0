from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from data_samples import make_transitions
from gymnasium import spaces
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from rlzoo.data import load_dataset
from rlzoo.data.sb3_buffers import from_replay_buffer, to_replay_buffer
from rlzoo.data.validate import DatasetWarning
from rlzoo.errors import RefusedError


class Witness(gym.Wrapper):
    """Writes down what really happened in an environment."""

    def __init__(self, env):
        super().__init__(env)
        self.rows = []

    def reset(self, **kwargs):
        self.last, info = self.env.reset(**kwargs)
        return self.last, info

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.rows.append((self.last, action, reward, terminated, truncated, obs))
        self.last = obs
        return obs, reward, terminated, truncated, info


class Walk(gym.Env):
    """Ends after 5 steps by itself when seeded so, else runs; bounds are not symmetric."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(np.array([-3.0, 0.0], np.float32), np.array([1.0, 10.0], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.length = 0, int(self.np_random.integers(3, 12))
        return self.np_random.normal(size=2).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        obs = self.np_random.normal(size=2).astype(np.float32)
        return obs, float(obs[0]), self.steps >= self.length, False, {}


def train(cls, witnesses, steps, buffer_size, **kwargs):
    from stable_baselines3.common.vec_env import DummyVecEnv

    env = DummyVecEnv([lambda w=w: w for w in witnesses])
    model = cls(
        "MlpPolicy",
        env,
        learning_starts=20,
        buffer_size=buffer_size,
        batch_size=8,
        policy_kwargs={"net_arch": [8]},
        seed=3,
        device="cpu",
        **kwargs,
    )
    return model.learn(steps)


def expected_rows(witnesses, newest):
    """The newest rows of every environment, one after the other."""
    return [row for w in witnesses for row in w.rows[-newest:]]


def check(t, expected, atol=1e-6):
    obs, actions, rewards, terminated, truncated, following = zip(*expected, strict=True)
    np.testing.assert_array_equal(t.observations, np.asarray(obs, np.float32))
    np.testing.assert_allclose(t.actions, np.asarray(actions), atol=atol, rtol=1e-6)
    np.testing.assert_array_equal(t.rewards, np.asarray(rewards, np.float32))
    np.testing.assert_array_equal(t.next_observations, np.asarray(following, np.float32))
    np.testing.assert_array_equal(t.terminations, terminated)
    real_cuts = np.asarray(truncated)
    assert t.truncations[real_cuts & ~np.asarray(terminated)].all()
    closed = set(
        (t.episode_starts[1:] - 1)[[i for i in t.metadata.get("cut_episodes", [])]].tolist()
    )
    extra = set(np.flatnonzero(t.truncations & ~real_cuts).tolist())
    assert extra <= closed


@pytest.mark.parametrize("cls", [TD3, SAC])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_pendulum_run_comes_back_as_it_happened(cls, n_envs):
    ends = [Witness(gym.make("Pendulum-v1", max_episode_steps=17)) for _ in range(n_envs)]
    model = train(cls, ends, 60 * n_envs, 10_000)
    t = load_dataset(model.replay_buffer, env_id="Pendulum-v1")
    check(t, expected_rows(ends, 60))
    assert t.episode_lengths.tolist() == [17, 17, 17, 9] * n_envs
    assert t.metadata["cut_episodes"] == [3 + 4 * i for i in range(n_envs)]
    assert not t.terminations.any()
    assert t.truncations.sum() == 4 * n_envs
    assert np.abs(t.actions).max() > 1.2  # not scaled


@pytest.mark.filterwarnings("ignore:.*episodes have one step")
@pytest.mark.parametrize("n_envs", [1, 2])
def test_full_ring_with_terminations_and_odd_bounds(n_envs):
    ends = [Witness(gym.wrappers.TimeLimit(Walk(), 8)) for _ in range(n_envs)]
    model = train(TD3, ends, 95 * n_envs, 40 * n_envs)
    assert model.replay_buffer.full
    assert model.replay_buffer.pos == 15
    t = from_replay_buffer(model.replay_buffer)
    check(t, expected_rows(ends, 40), atol=1e-5)
    assert t.terminations.any()
    assert len(t) == 40 * n_envs
    first = np.searchsorted(t.episode_starts, np.arange(n_envs) * 40).tolist()
    assert set(first) <= set(t.metadata["cut_episodes"])


def test_memory_optimised_ring_drops_what_is_lost():
    witness = Witness(gym.make("Pendulum-v1", max_episode_steps=17))
    model = train(
        SAC,
        [witness],
        75,
        50,
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
    )
    assert model.replay_buffer.full
    with pytest.warns(DatasetWarning, match="ends at step 17 count as time-outs"):
        t = from_replay_buffer(model.replay_buffer, time_limit=17)
    # Steps 26 to 74 are left (one place of the ring is no transition). Step 33 ends an episode
    # whose start is gone, so it stays a termination; 50 and 67 are known time-outs: dropped.
    wanted = [r for i, r in enumerate(witness.rows) if i >= 26 and i not in (50, 67)]
    np.testing.assert_array_equal(t.observations, np.asarray([r[0] for r in wanted]))
    known = ~t.terminations
    np.testing.assert_array_equal(
        t.next_observations[known], np.asarray([r[5] for r in wanted])[known]
    )
    assert t.terminations.nonzero()[0].tolist() == [7]
    np.testing.assert_array_equal(t.next_observations[7], t.observations[7])
    assert t.episode_lengths.tolist() == [8, 16, 16, 7]
    assert t.metadata["cut_episodes"] == [0, 3]


def test_ends_without_time_out_information_count_as_terminations():
    witness = Witness(gym.make("Pendulum-v1", max_episode_steps=17))
    kwargs = {"replay_buffer_kwargs": {"handle_timeout_termination": False}}
    model = train(SAC, [witness], 40, 100, **kwargs)
    with pytest.warns(DatasetWarning, match="every end counts as a termination"):
        t = from_replay_buffer(model.replay_buffer)
    assert t.terminations.nonzero()[0].tolist() == [16, 33]
    with pytest.warns(DatasetWarning):
        t = from_replay_buffer(model.replay_buffer, time_limit=17)
    assert t.truncations.nonzero()[0].tolist() == [16, 33, 39]
    check(t, witness.rows)


def test_discrete_actions():
    witness = Witness(gym.make("CartPole-v1"))
    model = train(DQN, [witness], 90, 200)
    with pytest.warns(DatasetWarning, match="all rewards are 1"):
        t = from_replay_buffer(model.replay_buffer, env_id="CartPole-v1")
    check(t, witness.rows)
    assert t.actions.dtype == np.int64
    assert t.actions.shape == (len(witness.rows),)


@pytest.mark.parametrize(
    "t",
    [
        make_transitions(),
        make_transitions(discrete=True),
        make_transitions(shape=(3, 9, 9), dtype=np.uint8),
    ],
    ids=["box", "discrete", "pixels"],
)
@pytest.mark.parametrize("spare", [None, 15, 100])
def test_round_trip_is_bit_equal(t, spare):
    buffer = to_replay_buffer(t, device="cpu", buffer_size=spare)
    assert from_replay_buffer(buffer).fingerprint == t.fingerprint


def test_symmetric_bounds_are_scaled_without_loss():
    t = make_transitions()
    rng = np.random.default_rng(0)
    actions = (rng.uniform(-2, 2, (15, 2)) ** 9 / 256).astype(np.float32)  # down to tiny ones
    t = replace(t, actions=actions, action_space=spaces.Box(-2, 2, (2,)))
    buffer = to_replay_buffer(t, device="cpu")
    np.testing.assert_array_equal(buffer.actions[:15, 0], actions / 2)
    assert from_replay_buffer(buffer).fingerprint == t.fingerprint


def test_sb3_trains_on_an_exported_buffer_and_sees_our_flags():
    witness = Witness(gym.make("Pendulum-v1", max_episode_steps=17))
    t = from_replay_buffer(train(SAC, [witness], 60, 100).replay_buffer)
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]}, device="cpu", seed=0)
    model.replay_buffer = to_replay_buffer(t, device="cpu")
    model._setup_learn(1)
    model.train(gradient_steps=3, batch_size=32)
    batch = model.replay_buffer.sample(500)
    assert not batch.dones.any()  # Pendulum never terminates: SB3 bootstraps at the cuts
    assert batch.actions.abs().max() <= 1


def test_what_cannot_be_read_is_refused():
    box = spaces.Box(-1, 1, (2,))
    with pytest.raises(RefusedError, match="is not supported"):
        from_replay_buffer(DictReplayBuffer(5, spaces.Dict(a=box), box, device="cpu"))
    with pytest.raises(RefusedError, match="holds no transitions"):
        from_replay_buffer(ReplayBuffer(5, box, box, device="cpu"))
    with pytest.raises(RefusedError, match="is not supported"):
        load_dataset(42)
    with pytest.raises(RefusedError, match="buffer_size=3"):
        to_replay_buffer(make_transitions(), buffer_size=3)
