"""Replay and updates on the device, run eagerly on the CPU: the same as those of the host."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from rlzoo.agents.der import DER, captured
from rlzoo.agents.der.device_replay import DeviceReplay
from rlzoo.agents.der.frames import FrameReplayBuffer
from rlzoo.agents.der.prioritized import PrioritizedReplayBuffer
from rlzoo.core.finite import NonFiniteError
from rlzoo.errors import RefusedError

IMAGES = spaces.Box(0, 255, (4, 6, 6), np.uint8)
VECTORS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
SAMPLE = ("observations", "actions", "rewards", "dones", "discounts", "probabilities", "indices")


def numpy_uniform(n: int, dtype: th.dtype, device: th.device) -> th.Tensor:
    """The numbers that the buffer in NumPy draws from the same generator."""
    return th.tensor(np.random.random(n), dtype=dtype, device=device)  # noqa: NPY002


class Player:
    """Puts random transitions with ends of all kinds into several buffers."""

    def __init__(self, space: spaces.Box, n_envs: int, seed: int = 0) -> None:
        self.space, self.n_envs, self.rng = space, n_envs, np.random.default_rng(seed)
        self.obs = np.stack([self.first() for _ in range(n_envs)])

    def first(self) -> np.ndarray:
        if self.space is VECTORS:
            return self.rng.normal(size=3).astype(np.float32)
        stack = self.rng.integers(0, 256, (4, 6, 6), np.uint8)
        stack[: self.rng.integers(0, 4)] = 0
        return stack

    def following(self, obs: np.ndarray) -> np.ndarray:
        if self.space is VECTORS:
            return self.first()
        return np.concatenate([obs[1:], self.rng.integers(0, 256, (1, 6, 6), np.uint8)])

    def play(self, buffers: list[PrioritizedReplayBuffer], steps: int) -> None:
        n, rng = self.n_envs, self.rng
        for _ in range(steps):
            following = np.stack([self.following(obs) for obs in self.obs])
            done = rng.random(n) < 0.1
            infos = [{"TimeLimit.truncated": bool(d and rng.random() < 0.5)} for d in done]
            arguments = rng.integers(0, 3, n), rng.normal(size=n), done, infos
            for buffer in buffers:
                buffer.add(self.obs.copy(), following, *arguments)
            self.obs = following
            for env in np.flatnonzero(done | (rng.random(n) < 0.03)):  # now and then unannounced
                self.obs[env] = self.first()


def make(space: spaces.Box, n_envs: int = 1, size: int = 90) -> PrioritizedReplayBuffer:
    kind = PrioritizedReplayBuffer if space is VECTORS else FrameReplayBuffer
    return kind(size * n_envs, space, spaces.Discrete(3), "cpu", n_envs, n_steps=3, gamma=0.9)


def sample_both(
    host: PrioritizedReplayBuffer, replay: DeviceReplay, seed: int, n: int = 16
) -> tuple[Any, Any]:
    batches = []
    for sample in (host.sample, replay.sample):
        np.random.seed(seed)  # noqa: NPY002
        batches.append(sample(n))
    return batches[0], batches[1]


def assert_same(host: Any, device: Any) -> None:
    for name in SAMPLE:
        a, b = getattr(host, name), getattr(device, name)
        assert a.dtype == b.dtype, name
        assert a.shape == b.shape, name
        assert th.allclose(a.double(), b.double(), rtol=1e-6), name
    going_on = host.dones.squeeze(-1) == 0
    assert th.equal(host.next_observations[going_on], device.next_observations[going_on])


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("space", [VECTORS, IMAGES], ids=["vectors", "frames"])
def test_given_uniforms_give_the_batches_of_the_sum_tree(space: spaces.Box, n_envs: int) -> None:
    host, mirrored = make(space, n_envs), make(space, n_envs)
    player, rng = Player(space, n_envs), np.random.default_rng(1)
    player.play([host, mirrored], 10)
    replay = DeviceReplay(mirrored, "cpu", numpy_uniform)
    for round_ in range(120):  # the ring wraps several times
        player.play([host, mirrored], int(rng.integers(0, 5)))
        assert host.can_sample
        assert mirrored.can_sample
        replay.push()
        a, b = sample_both(host, replay, round_)
        assert_same(a, b)
        losses = th.from_numpy(rng.exponential(size=host.sum_tree.n_leaves).astype(np.float32))
        for buffer, batch in ((host, a), (replay, b)):
            buffer.update_priorities(batch.indices, losses[batch.indices])
    replay.pull()
    assert np.allclose(host.sum_tree.nodes, mirrored.sum_tree.nodes, rtol=1e-12)
    assert host.max_priority == pytest.approx(mirrored.max_priority, rel=1e-12)
    assert host.max_priority > 1
    replay.close()
    player.play([host, mirrored], 1)  # from here on without the copy
    assert_same(*sample_both(host, mirrored, 0))  # type: ignore[arg-type]


def test_an_episode_that_is_cut_without_a_new_row_is_noticed() -> None:
    host, mirrored = make(IMAGES), make(IMAGES)
    Player(IMAGES, 1, seed=3).play([host, mirrored], 40)
    replay = DeviceReplay(mirrored, "cpu", numpy_uniform)
    assert host.unripe[0] > 0
    for buffer in (host, mirrored):
        buffer.dones[39] = buffer.timeouts[39] = 1
        assert buffer.can_sample
    replay.push()
    assert_same(*sample_both(host, replay, 0, n=64))


def test_frequencies_are_proportional() -> None:
    buffer = make(VECTORS, size=64)
    Player(VECTORS, 1).play([buffer], 70)
    replay = DeviceReplay(buffer, "cpu")
    ripe = replay.priorities > 0
    replay.priorities[ripe] = th.linspace(0.1, 3, int(ripe.sum()), dtype=th.float64)
    th.manual_seed(0)
    drawn = th.cat([replay.sample(1).indices for _ in range(2_000)])
    drawn = th.cat([drawn, *(replay.sample(32).indices for _ in range(1_000))])
    p = (replay.priorities / replay.priorities.sum())[ripe].numpy()
    counts = np.bincount(drawn.numpy(), minlength=64)
    assert counts[~ripe.numpy()].sum() == 0
    expected = p * len(drawn)
    chi2 = ((counts[ripe.numpy()] - expected) ** 2 / expected).sum()
    assert 50 < ripe.sum() < 64
    assert chi2 < 104  # the 99.9 % quantile of 63 degrees of freedom


@pytest.mark.parametrize("at", [0.0, 1.0, 1.5])
def test_rounding_never_finds_a_priority_of_zero(at: float) -> None:
    buffer = make(VECTORS)
    Player(VECTORS, 1).play([buffer], 40)
    replay = DeviceReplay(buffer, "cpu", lambda n, **kwargs: th.full((n,), at, **kwargs))
    replay.priorities[35:] = 0
    assert (replay.sample(32).probabilities > 0).all()


# -------------------------------------------------------------- updates of an agent


class OnDevice(DER):
    """DER as on CUDA, but without a graph."""

    on_device = True

    def _wants_updates_on_device(self) -> bool:
        return self.on_device


ARGUMENTS: dict[str, Any] = {
    "learning_starts": 20,
    "batch_size": 8,
    "buffer_size": 100,
    "n_steps": 3,
    "target_update_interval": 7,
    "learning_rate": lambda progress: 1e-3 * progress,
    "max_grad_norm": 0.5,
    "policy_kwargs": {"net_arch": [16, 16]},
    "seed": 0,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def _same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "DeviceReplay", partial(DeviceReplay, uniform=numpy_uniform))


def assert_same_agents(host: DER, device: DER) -> None:
    for (name, a), b in zip(
        host.policy.state_dict().items(), device.policy.state_dict().values(), strict=True
    ):
        assert th.allclose(a, b, atol=1e-5), name
    assert np.allclose(host.replay_buffer.nodes, device.replay_buffer.nodes, rtol=1e-3)  # type: ignore[union-attr]
    assert host._n_updates == device._n_updates > 0


@pytest.mark.parametrize(
    "changes",
    [{}, {"gradient_steps": 2, "n_envs": 2}, {"max_grad_norm": None, "distributional": False}],
    ids=["default", "several", "values"],
)
def test_updates_on_the_device_are_those_of_the_host(changes: dict[str, Any]) -> None:
    changes = dict(changes)
    n_envs = changes.pop("n_envs", 1)
    models = []
    for cls in (DER, OnDevice):  # one after the other: they share the global generators
        env = make_vec_env("CartPole-v1", n_envs, seed=0)
        model = cls("MlpPolicy", env, **{**ARGUMENTS, **changes})
        start = model.q_net.advantage.weight.clone()
        models.append(model.learn(160 * n_envs))
    host, device = models
    assert device._on_device is not None
    assert_same_agents(host, device)
    assert (host.q_net.advantage.weight - start).abs().max() > 1e-2


def test_logs_are_read_in_time() -> None:
    seen: list[dict[str, float]] = []
    for cls in (DER, OnDevice):
        model = cls("MlpPolicy", "CartPole-v1", **ARGUMENTS).learn(100, log_interval=10_000)
        values = dict(model.logger.name_to_value)
        seen.append({k: v for k, v in values.items() if k.startswith("train/")})
        assert model.logger.name_to_count["train/q_loss"] == 80
    assert seen[0] == pytest.approx(seen[1], rel=1e-3)
    assert set(seen[0]) >= {"train/q_loss", "train/grad_norm", "train/q_mean"}


def test_training_can_leave_the_device() -> None:
    """As a run that is continued from a checkpoint on a machine without a GPU."""
    host, device = (
        cls("MlpPolicy", "CartPole-v1", **ARGUMENTS).learn(60) for cls in (DER, OnDevice)
    )
    assert_same_agents(host, device)
    device.on_device = False  # type: ignore[attr-defined]
    for model in (host, device):
        model.set_random_seed(1)
        model.learn(60, reset_num_timesteps=False)
    assert_same_agents(host, device)
    assert device._on_device is None


def test_a_checkpoint_finds_the_priorities_in_the_buffer() -> None:
    states = []

    def keep(scope: dict[str, Any], _: Any) -> bool:
        model = scope["self"]
        if model.num_timesteps == 50:
            assert model.get_extra_state() == {}
            states.append(model.replay_buffer.nodes.copy())
        return True

    host, device = (
        cls("MlpPolicy", "CartPole-v1", **ARGUMENTS).learn(70, keep) for cls in (DER, OnDevice)
    )
    assert np.allclose(*states, rtol=1e-3)
    assert len(np.unique(states[0])) > 20
    assert_same_agents(host, device)


def test_another_buffer_or_other_weights_make_another_copy(tmp_path: Any) -> None:
    model = OnDevice("MlpPolicy", "CartPole-v1", **ARGUMENTS).learn(60)
    first = model._on_device
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer")
    model.learn(20, reset_num_timesteps=False)
    second = model._on_device
    assert second is not first
    assert second is not None
    assert second.replay.buffer is model.replay_buffer
    model.set_parameters(str(tmp_path / "model.zip"))
    assert model._on_device is None
    model.learn(20, reset_num_timesteps=False)
    assert model._n_updates == 60 - 20 + 40
    loaded = DER.load(tmp_path / "model", device="cpu")
    assert "_on_device" not in vars(loaded) or loaded._on_device is None


def test_what_is_not_finite_is_seen_when_results_are_read() -> None:
    model = OnDevice("MlpPolicy", "CartPole-v1", **ARGUMENTS).learn(60)
    model.replay_buffer.rewards[:] = np.nan  # type: ignore[union-attr]
    model._leave_device()
    with pytest.raises(NonFiniteError):
        model.learn(captured.READ_EVERY + 5, reset_num_timesteps=False)


def test_where_there_is_nothing_to_capture() -> None:
    with pytest.raises(RefusedError, match="capture=True on device cpu"):
        DER("MlpPolicy", "CartPole-v1", device="cpu", capture=True)
    assert not DER("MlpPolicy", "CartPole-v1", **ARGUMENTS)._wants_updates_on_device()
    normalized = VecNormalize(make_vec_env("CartPole-v1"))
    model = DER("MlpPolicy", normalized, **ARGUMENTS)
    assert model._vec_normalize_env is normalized
    assert not model._wants_updates_on_device()
