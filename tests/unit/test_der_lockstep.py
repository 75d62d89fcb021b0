"""Agents in lock-step learn what each learns alone, given the same random numbers; on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from rlzoo.agents.der import DER, captured
from rlzoo.agents.der.device_replay import DeviceReplay
from rlzoo.agents.der.lockstep import LockStep
from rlzoo.agents.der.lockstep_random import BLOCK, Drawn, noise, uniform
from rlzoo.agents.der.policies import MlpPolicy
from rlzoo.core.finite import NonFiniteError
from rlzoo.core.seeding import stream
from rlzoo.errors import RefusedError

STARTS, UPDATES = 20, 200


class Game(gym.Env[Any, Any]):
    """A random walk that actions push, as a vector or as the newest of two frames."""

    def __init__(self, n_actions: int, shape: tuple[int, ...] = (3,), drift: float = 0.1) -> None:
        self.action_space = spaces.Discrete(n_actions)
        images = len(shape) == 3
        self.observation_space = (
            spaces.Box(0, 255, shape, np.uint8) if images else spaces.Box(-np.inf, np.inf, shape)
        )
        self.images, self.shape, self.drift = images, shape, drift

    def _observe(self) -> Any:
        if not self.images:
            return np.resize(np.array([self.x, self.x**2, 1.0], np.float32), self.shape)
        frame = self.np_random.integers(0, 100, self.shape[1:], np.uint8)
        frame[: self.shape[1] // 2] += np.uint8(75 + np.clip(50 * self.x, -75, 75))
        self.stack = np.concatenate([self.stack[1:], frame[None]])
        return self.stack

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.x = self.np_random.normal()
        self.stack = np.zeros(self.shape, np.uint8)
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        self.x += self.drift * (float(action) - 1) + 0.3 * self.np_random.normal()
        ends = self.np_random.random(2) < 0.05
        return self._observe(), float(np.sin(self.x)), bool(ends[0]), bool(ends[1]), {}


def small(images: bool, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "learning_starts": STARTS, "batch_size": 8, "buffer_size": 150, "n_steps": 3,
        "target_update_interval": 7, "learning_rate": 1e-3, "max_grad_norm": 0.5, "n_atoms": 11,
        "v_min": -3, "v_max": 3, "policy_kwargs": {"net_arch": [12] if images else [12, 12]},
        "device": "cpu",
    }  # fmt: skip
    if images:
        arguments["frame_stack"] = 2
    return arguments | changes


def make(
    n_actions: int, seed: int, shape: tuple[int, ...] = (3,), cls: type[DER] = DER, **changes: Any
) -> DER:
    images, n_envs = len(shape) == 3, changes.pop("n_envs", 1)
    env = make_vec_env(lambda: Game(n_actions, shape, drift=0.1 * seed), n_envs)
    policy = changes.pop("policy", "CnnPolicy" if images else "MlpPolicy")
    return cls(policy, env, seed=seed, **small(images, **changes))


# ----------------------------------------------------------- against a single agent


class Alone(DER):
    """DER whose updates are those of CUDA, and which notes losses."""

    def _wants_updates_on_device(self) -> bool:
        return True

    def _step_on_device(self, batch: Any, beta: Any) -> Any:
        losses, results = super()._step_on_device(batch, beta)
        self.noted.append(losses)  # type: ignore[attr-defined]
        return losses, results


def one_by_one(seed: int, name: str, draw: Any, width: int) -> Callable[[], th.Tensor]:
    drawn = Drawn([seed], name, draw, [th.arange(width)], width, th.device("cpu"))
    return lambda: drawn.advance()[0].clone()


def alone(agent: DER, monkeypatch: pytest.MonkeyPatch) -> DER:
    """Let a single agent draw from the streams that it would have in lock-step."""
    seed = agent.seed or 0
    agent.noted = []  # type: ignore[attr-defined]
    for name, network in (("online", agent.q_net), ("target", agent.q_net_target)):
        buffers = [x for layer in network._noisy_layers for x in (layer.noise_in, layer.noise_out)]
        sizes = [len(x) for x in buffers]
        following = one_by_one(seed, name, noise, sum(sizes))

        def reset(_: Any, buffers: Any = buffers, sizes: Any = sizes, f: Any = following) -> None:
            for buffer, part in zip(buffers, f().split(sizes), strict=True):
                buffer.copy_(part)

        monkeypatch.setattr(network, "reset_noise", MethodType(reset, network))
    rows = one_by_one(seed, "replay", uniform, agent.batch_size)
    monkeypatch.setattr(
        captured, "DeviceReplay", lambda b, d: DeviceReplay(b, d, lambda *_, **__: rows())
    )
    if agent.image_shift:
        shifts, p = one_by_one(seed, "shift", uniform, 4 * agent.batch_size), agent.image_shift
        queue: list[th.Tensor] = []

        def randint(low: int, high: int, size: Any, device: Any) -> th.Tensor:
            if not queue:
                queue.extend((shifts() * (2 * p + 1)).long().view(2, *size).unbind())
            return queue.pop(0)

        monkeypatch.setattr(th, "randint", randint)
    rng = np.random.default_rng(stream(seed, "lock-step", "explore"))
    monkeypatch.setattr(np.random, "random", rng.random)
    monkeypatch.setattr(np.random, "randint", rng.integers)
    if agent.warmup == "uniform":
        sample = lambda: rng.integers(0, agent.action_space.n, 1)[0]  # type: ignore[attr-defined]  # noqa: E731
        monkeypatch.setattr(agent.action_space, "sample", sample)
    return agent


class Losses(LockStep):
    """Notes the losses of every update."""

    def _step(self, batch: Any, beta: Any) -> Any:
        losses, results = super()._step(batch, beta)
        self.__dict__.setdefault("noted", []).append(losses)
        return losses, results


def assert_same(first: DER, second: DER) -> None:
    a, b = first.policy.state_dict(), second.policy.state_dict()
    for name in a:
        assert th.allclose(a[name], b[name], atol=2e-4), name
    assert first._n_updates == second._n_updates > 0
    assert first.num_timesteps == second.num_timesteps
    assert np.allclose(first.replay_buffer.nodes, second.replay_buffer.nodes, atol=1e-3)  # type: ignore[union-attr]
    assert np.array_equal(first.replay_buffer.actions, second.replay_buffer.actions)  # type: ignore[union-attr]
    states = [x.policy.optimizer.state_dict()["state"] for x in (first, second)]
    for p in states[0]:
        assert states[0][p]["step"] == states[1][p]["step"] == first._n_updates
        for key in ("exp_avg", "exp_avg_sq"):
            assert th.allclose(states[0][p][key], states[1][p][key], atol=2e-3), (p, key)


STACKS, FRAMES = (2, 27, 30), (2, 6, 6)
CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "vectors": ((3,), {}),
    "patches": (STACKS, {}),
    "convolutions": (FRAMES, {"policy_kwargs": {"net_arch": [12], "encoder": "small"}}),
    "shifted": (
        FRAMES,
        {"image_shift": 2, "policy_kwargs": {"net_arch": [12], "encoder": "small"}},
    ),
    "values": ((3,), {"distributional": False, "double": False, "max_grad_norm": None}),
    "plain": ((3,), {"sigma": None, "dueling": False, "exploration_initial_eps": 0.3,
                     "exploration_final_eps": 0.1, "exploration_steps": 100, "warmup": "uniform"}),
    "several": ((3,), {"n_envs": 2, "gradient_steps": -1, "train_freq": 2,
                       "policy_kwargs": {"net_arch": [12, 12], "shared_hidden": True}}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_agents_learn_what_each_learns_alone(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, changes = CASES[case]
    games = [(2, 1), (4, 2), (3, 3)] if case == "vectors" else [(2, 1), (4, 2)]
    steps = STARTS + (UPDATES if case in ("vectors", "patches") else UPDATES // 2)
    together = Losses([make(*game, shape, **changes) for game in games]).learn(steps)
    for i, game in enumerate(games):
        with monkeypatch.context() as patch:
            single = alone(make(*game, shape, Alone, **changes), patch)
            start = single.q_net.advantage.bias.clone()
            single.learn(steps)
        noted = th.stack([losses[i] for losses in together.noted])  # type: ignore[attr-defined]
        expected = th.stack(single.noted)  # type: ignore[attr-defined]
        assert len(expected) == single._n_updates >= 95
        assert th.allclose(noted, expected, atol=2e-3)
        assert (expected[-1] - expected[0]).abs().max() > 1e-2
        assert_same(together.agents[i], single)
        assert (single.q_net.advantage.bias - start).abs().max() > 1e-2


def test_an_agent_does_not_depend_on_the_others() -> None:
    steps = STARTS + BLOCK + 10
    with_others = LockStep([make(2, 1), make(5, 2), make(3, 3)]).learn(steps)
    th.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    with_one = LockStep([make(4, 4), make(2, 1)]).learn(steps)
    assert_same(with_others.agents[0], with_one.agents[1])
    # The same game and weights with another seed: another run.
    again = make(2, 1)
    again.seed = 5
    other = LockStep([again]).learn(steps).agents[0]
    assert not th.allclose(other.q_net.advantage.weight, with_one.agents[1].q_net.advantage.weight)


def test_padded_actions_count_nowhere() -> None:
    """Whatever stands in the rows behind an agent's own, such as the largest values of all."""
    results = []
    for scale in (0.0, 5.0):
        garbage = scale * th.arange(11.0).repeat(3)  # more for higher atoms
        lock_step = LockStep([make(2, 1), make(5, 2)]).learn(STARTS + 5)
        with lock_step.stacked():
            stack = lock_step._stack
            assert stack is not None
            for tensors in (stack.online, stack.target):
                with th.no_grad():
                    tensors["advantage.bias"][0, 22:] = garbage
            assert stack.mask.sum(1).tolist() == [2, 5]
            lock_step.train(20)
            for tensors in (stack.online, stack.target):
                assert (tensors["advantage.bias"][0, 22:] == garbage).all()
            assert {int(lock_step._choose()[0][0]) for _ in range(20)} <= {0, 1}
        results.append(lock_step.agents)
    for first, second in zip(*results, strict=True):
        assert_same(first, second)


def test_gradients_are_clipped_for_each_agent() -> None:
    lock_step = LockStep([make(2, 1), make(3, 2)])
    with lock_step.stacked():
        stack = lock_step._stack
        assert stack is not None
        for tensor in stack.online.values():
            tensor.grad = th.ones_like(tensor)
            tensor.grad[1] *= 1e-3
        singles = [th.cat([p.grad[i].flatten() for p in stack.online.values()]) for i in (0, 1)]  # type: ignore[index]
        norms = stack.clip(0.5)
        after = [th.cat([p.grad[i].flatten() for p in stack.online.values()]) for i in (0, 1)]  # type: ignore[index]
    assert norms.tolist() == pytest.approx([float(x.norm()) for x in singles], rel=1e-4)
    assert float(after[0].norm()) == pytest.approx(0.5, rel=1e-4)
    assert th.equal(after[1], singles[1])


# ------------------------------------------------------------------ saving, callbacks


class Saves(BaseCallback):
    """Saves its agent in the middle, and notes what it predicts then."""

    def __init__(self, path: Any, at: int) -> None:
        super().__init__()
        self.path, self.at = path, at

    def _on_step(self) -> bool:
        if self.n_calls == self.at:
            self.model.save(self.path)
            self.model.save_replay_buffer(str(self.path) + ".buffer")  # type: ignore[attr-defined]
            self.seen = self.model.policy.q_net(OBSERVATIONS, False).detach()  # type: ignore[operator]
            self.nodes = self.model.replay_buffer.nodes.copy()  # type: ignore[attr-defined]
        return True


OBSERVATIONS = th.linspace(-2, 2, 60).view(20, 3)


def test_agents_are_saved_at_any_time(tmp_path: Any) -> None:
    agents = [make(2, 1), make(4, 2)]
    callbacks = [Saves(tmp_path / f"{i}.zip", STARTS + 40) for i in range(2)]
    LockStep(agents).learn(STARTS + 80, callbacks)
    for agent, callback in zip(agents, callbacks, strict=True):
        loaded = DER.load(callback.path, env=agent.get_env(), device="cpu")
        assert th.equal(loaded.q_net(OBSERVATIONS, False), callback.seen)
        assert not th.allclose(agent.q_net(OBSERVATIONS, False), callback.seen, atol=1e-3)
        assert loaded._on_device is None
        assert loaded._given_actions is None
        steps = {int(s["step"]) for s in loaded.policy.optimizer.state.values()}
        assert steps == {loaded._n_updates} == {39}
        for state in loaded.policy.optimizer.state.values():
            assert (state["exp_avg_sq"] > 0).any()
        tensors = [*loaded.policy.parameters()]
        assert all(t.untyped_storage().nbytes() == 4 * t.numel() for t in tensors)
        loaded.load_replay_buffer(str(callback.path) + ".buffer")
        assert np.array_equal(loaded.replay_buffer.nodes, callback.nodes)  # type: ignore[union-attr]
        assert len(np.unique(callback.nodes)) > 30  # priorities came back from the copy
        loaded.learn(30, reset_num_timesteps=False)
        assert loaded._n_updates == 39 + 30


def test_a_saved_agent_is_as_small_as_a_single_one(tmp_path: Any) -> None:
    agents = [make(2, seed) for seed in range(4)]
    sizes = []
    agents[0].learn(STARTS + 2)
    agents[0].save(tmp_path / "single.zip")
    callbacks = [Saves(tmp_path / f"{i}.zip", STARTS + 2) for i in range(4)]
    LockStep([make(2, seed) for seed in range(4)]).learn(STARTS + 5, callbacks)
    sizes = [(tmp_path / f"{name}.zip").stat().st_size for name in ("single", 0, 3)]
    assert max(sizes) < 1.05 * min(sizes)


def test_agents_go_on_alone_and_together() -> None:
    agents = [make(2, 1), make(4, 2)]
    lock_step = LockStep(agents).learn(STARTS + 10)
    for agent in agents:
        assert agent._on_device is None
        assert agent.replay_buffer.sum_tree.changes is None  # type: ignore[union-attr]
        tensors = [*agent.policy.parameters()]
        tensors += [s[k] for s in agent.policy.optimizer.state.values() for k in s]
        assert all(t.untyped_storage().nbytes() == 4 * t.numel() for t in tensors)
    before = agents[1].q_net.advantage.weight.clone()
    agents[0].learn(10, reset_num_timesteps=False)
    assert th.equal(agents[1].q_net.advantage.weight, before)
    assert {int(s["step"]) for s in agents[1].policy.optimizer.state.values()} == {10}
    with pytest.raises(RefusedError, match="steps taken: 40 and 30"):
        lock_step.learn(10, reset_num_timesteps=False)
    agents[1].learn(10, reset_num_timesteps=False)
    lock_step.learn(10, reset_num_timesteps=False)
    assert [agent._n_updates for agent in agents] == [30, 30]
    assert {int(s["step"]) for s in agents[1].policy.optimizer.state.values()} == {30}


def test_logs_are_those_of_each_agent() -> None:
    agents = [make(2, 1), make(4, 2)]
    LockStep(agents).learn(STARTS + 30, log_interval=None)
    values = [agent.logger.name_to_value for agent in agents]
    for found, agent in zip(values, agents, strict=True):
        assert agent.logger.name_to_count["train/q_loss"] == 30
        assert found["train/n_updates"] == 30
        assert found["train/beta"] == 1.0
    assert values[0]["train/grad_norm"] != values[1]["train/grad_norm"]


def test_a_callback_ends_the_training_of_all() -> None:
    agents = [make(2, 1), make(4, 2)]
    seen = []

    def stop(scope: dict[str, Any], _: Any) -> bool:
        seen.append(scope["self"].num_timesteps)
        return len(seen) < 25

    LockStep(agents).learn(STARTS + 80, [None, stop])
    assert [agent.num_timesteps for agent in agents] == [25, 25]
    assert all(agent._given_actions is None for agent in agents)


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    agents = [make(2, 1), make(4, 2)]
    lock_step = LockStep(agents).learn(STARTS + 10)
    agents[1].replay_buffer.rewards[:] = np.nan  # type: ignore[union-attr]
    with pytest.raises(NonFiniteError, match="losses of agent 1"):
        lock_step.learn(captured.READ_EVERY + 5, reset_num_timesteps=False)
    assert all(agent._on_device is None for agent in agents)
    assert all(p.isfinite().all() for p in agents[0].policy.parameters())


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"learning_rate": 2e-3}, "learning_rate"),
        ({"batch_size": 9}, "batch_size 8 and 9"),
        ({"n_envs": 2}, "side by side: 1 and 2"),
        ({"policy_kwargs": {"net_arch": [12, 13]}}, "policy_kwargs"),
        ({"shape": (4,)}, "observations"),
        ({"shape": FRAMES, "policy_kwargs": {"encoder": "small"}}, "Agents 0 and 1"),
        ({"cls": Alone}, "Agent 1 is Alone with MlpPolicy"),
        ({"policy": type("Own", (MlpPolicy,), {})}, "Agent 1 is DER with Own"),
    ],
)
def test_agents_with_other_settings_are_refused(other: dict[str, Any], message: str) -> None:
    agents = [make(2, 1), make(3, 2, **other)]
    with pytest.raises(RefusedError, match=message):
        LockStep(agents)


def test_what_cannot_be_stacked_is_refused() -> None:
    with pytest.raises(RefusedError, match="No agents"):
        LockStep([])
    agent = make(2, 1)
    with pytest.raises(RefusedError, match="Among 2 agents one is given twice"):
        LockStep([agent, agent])
    with pytest.raises(RefusedError, match="Among 2 environments"):
        LockStep([agent, DER("MlpPolicy", agent.get_env(), seed=2, **small(False))])
    with pytest.raises(RefusedError, match="learning_starts=2 with windows of 3 steps"):
        LockStep([make(2, 1, learning_starts=2)])
    normalized = VecNormalize(make_vec_env(lambda: Game(2)))
    with pytest.raises(RefusedError, match="VecNormalize"):
        LockStep([DER("MlpPolicy", normalized, **small(False))])
    with pytest.raises(RefusedError, match="not stacked"):
        LockStep([agent]).train(1)
    with LockStep([agent]).stacked() as stacked, pytest.raises(RefusedError, match="already"):
        stacked.learn(10)
    with pytest.raises(RefusedError, match="callback is 1 for 2 agents"):
        LockStep([agent, make(2, 2)]).learn(10, [None])
    with pytest.raises(RefusedError, match="callback is Saves for 1 agents"):
        LockStep([agent]).learn(10, Saves("", 0))  # type: ignore[arg-type]
    agent.env = None
    with pytest.raises(RefusedError, match="no environment"):
        LockStep([agent])
