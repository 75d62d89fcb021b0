"""DER's update, schedules and acting (paper page, section 8, tests 8 and 9)."""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from rlzoo.agents.der import DER
from rlzoo.agents.der.c51 import project
from rlzoo.agents.der.policies import DERNetwork
from rlzoo.agents.der.prioritized import PrioritizedSamples, importance_weights
from rlzoo.core.finite import NonFiniteError
from rlzoo.errors import RefusedError

SMALL: dict[str, Any] = {
    "learning_starts": 20,
    "batch_size": 8,
    "buffer_size": 500,
    "n_steps": 3,
    "policy_kwargs": {"net_arch": [16, 16]},
    "seed": 0,
    "device": "cpu",
}


def make(**kwargs: Any) -> DER:
    return DER("MlpPolicy", "CartPole-v1", **{**SMALL, **kwargs})


def filled(**kwargs: Any) -> DER:
    """An agent before its first update, with transitions to learn from."""
    return make(**{"learning_starts": 100, **kwargs}).learn(100)


def assert_same(a: th.nn.Module, b: th.nn.Module, same: bool = True) -> None:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    assert all(th.equal(x, y) for x, y in pairs) == same


# -------------------------------------------------------------------- gradient


def test_gradient_of_the_loss_is_that_of_a_weighted_cross_entropy() -> None:
    model = filled()
    batch = model.replay_buffer.sample(8)
    seen: list[th.Tensor] = []

    def keep(_: Any, __: Any, output: th.Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
            seen.append(output)

    handle = model.q_net.register_forward_hook(keep)
    th.manual_seed(5)
    losses, q_values = model._losses(batch)
    handle.remove()
    weights = importance_weights(batch.probabilities, 100, 0.4)
    (weights * losses).mean().backward()
    (logits,) = seen  # no other evaluation of the online network has a gradient
    th.manual_seed(5)
    m = model._target(batch, model.policy.inputs(batch.next_observations))
    assert not m.requires_grad
    rows, actions = th.arange(8), batch.actions.squeeze(-1)
    expected = th.zeros_like(logits)
    p = logits.detach()[rows, actions].softmax(-1)
    expected[rows, actions] = weights.unsqueeze(-1) * (p - m) / 8
    assert th.allclose(logits.grad, expected, atol=1e-7)
    assert th.allclose(q_values, p @ model.policy.support, atol=1e-5)
    assert all(p.grad is None for p in model.q_net_target.parameters())
    assert not any(p.requires_grad for p in model.q_net_target.parameters())


def batch_of(observations: th.Tensor, **kwargs: Any) -> PrioritizedSamples:
    n = len(observations)
    column = th.ones(n, 1)
    values = {
        "observations": observations, "actions": th.zeros(n, 1, dtype=th.long),
        "next_observations": observations, "dones": 0 * column, "rewards": 0 * column,
        "discounts": column, "probabilities": th.full((n,), 0.1, dtype=th.float64),
        "indices": th.arange(n), **kwargs,
    }  # fmt: skip
    return PrioritizedSamples(**values)


def with_biases(distributional: bool, **kwargs: Any) -> DER:
    """Online prefers action 0, target prefers action 1; both ignore the observation."""
    model = make(distributional=distributional, dueling=False, sigma=None, **kwargs)
    n = model.n_atoms if distributional else 1
    with th.no_grad():
        for net, better in ((model.q_net, 0), (model.q_net_target, 1)):
            net.advantage.weight.zero_()
            bias = net.advantage.bias.view(2, n)
            ramp = th.linspace(-1, 1, n) if distributional else th.ones(1)
            bias[better], bias[1 - better] = ramp, -ramp
    return model


@pytest.mark.parametrize("distributional", [True, False])
def test_double_q_takes_the_action_of_one_network_and_the_value_of_the_other(
    distributional: bool,
) -> None:
    batch = batch_of(th.zeros(3, 4), rewards=th.full((3, 1), 0.5), discounts=th.full((3, 1), 0.9))
    double, single = (with_biases(distributional, double=flag) for flag in (True, False))
    values = []
    for model, action in ((double, 0), (single, 1)):
        target = model._target(batch, batch.next_observations)
        outputs = model.q_net_target(batch.next_observations, False)[:, action]
        if distributional:
            z = model.policy.support
            expected = project(outputs.softmax(-1), th.full((3,), 0.5), th.full((3,), 0.9), z)
            values.append(float((target @ z).mean()))
        else:
            expected = 0.5 + 0.9 * outputs.squeeze(-1)
            values.append(float(target.mean()))
        assert th.allclose(target, expected)
    assert values[0] < values[1] - 0.5


def test_nothing_is_bootstrapped_behind_a_terminal_step() -> None:
    model = make(v_min=0.0, v_max=50.0)
    batch = batch_of(th.zeros(2, 4), dones=th.tensor([[1.0], [0.0]]), rewards=th.full((2, 1), 2.0))
    means = model._target(batch, batch.next_observations) @ model.policy.support
    assert means[0] == pytest.approx(2, abs=1e-3)
    assert means[1] > 10


# -------------------------------------------------------------------- schedule


def test_the_target_is_copied_every_so_many_updates() -> None:
    model = filled(target_update_interval=7)
    for update in range(1, 22):
        model.train(1, 8)
        assert_same(model.q_net, model.q_net_target, same=update % 7 == 0)
    assert model._n_updates == 21


def test_several_updates_count_as_such() -> None:
    model = filled(target_update_interval=6)
    model.train(6, 8)
    assert_same(model.q_net, model.q_net_target)
    model.train(1, 8)
    assert_same(model.q_net, model.q_net_target, same=False)


def test_updates_begin_when_learning_starts() -> None:
    assert make(learning_starts=30).learn(30)._n_updates == 0
    assert make(learning_starts=30).learn(40)._n_updates == 10
    # Nothing has ripened after three steps, unless the episode ended.
    assert make(learning_starts=0).learn(3)._n_updates == 0


def test_beta_goes_from_the_first_update_to_the_last_step() -> None:
    model = make()
    betas: dict[int, float] = {}
    model.learn(220, lambda scope, _: not betas.update({model.num_timesteps: model.beta}))
    assert betas[20] == pytest.approx(0.4)
    assert betas[120] == pytest.approx(0.7)
    assert betas[220] == pytest.approx(1)
    assert betas[10] == pytest.approx(0.4)


def test_exploration_rate() -> None:
    model = make(exploration_initial_eps=1.0, exploration_final_eps=0.1, exploration_steps=100)
    rates = {}
    for step in (0, 20, 70, 120, 500):
        model.num_timesteps = step
        rates[step] = model.exploration_rate
    assert rates == pytest.approx({0: 1, 20: 1, 70: 0.55, 120: 0.1, 500: 0.1})
    observations = np.zeros((4000, 4), np.float32)
    model.num_timesteps = 70
    drawn = model.predict(observations)[0]
    greedy, share = np.bincount(drawn).argmax(), np.bincount(drawn).max() / 4000
    assert share == pytest.approx(1 - 0.55 / 2, abs=0.03)
    model.num_timesteps = 0
    assert np.bincount(model.predict(observations)[0]).min() > 1800
    assert greedy in (0, 1)


@pytest.mark.parametrize("warmup", ["policy", "uniform"])
def test_warm_up(warmup: str) -> None:
    model = make(warmup=warmup, sigma=None, learning_starts=60).learn(60)
    rows = slice(0, 60)
    chosen = model.predict(model.replay_buffer.observations[rows, 0], deterministic=True)[0]
    same = (chosen == model.replay_buffer.actions[rows, 0, 0]).mean()
    assert (same == 1) if warmup == "policy" else (0.2 < same < 0.8)


def test_noise_of_actions_comes_anew_and_is_off_when_deterministic() -> None:
    model = make(sigma=3.0)
    observation = np.array([0.01, 0.01, 0.01, 0.01], np.float32)
    assert {int(model.predict(observation)[0]) for _ in range(60)} == {0, 1}
    assert len({int(model.predict(observation, deterministic=True)[0]) for _ in range(60)}) == 1


def noise_of(net: DERNetwork) -> th.Tensor:
    return net.advantage.noise_in.clone()


def test_an_update_has_the_noise_of_the_action_and_new_noise_in_the_target() -> None:
    model = filled()
    online, target = noise_of(model.q_net), noise_of(model.q_net_target)
    model.train(1, 8)
    assert th.equal(noise_of(model.q_net), online)
    assert not th.equal(noise_of(model.q_net_target), target)
    model.train(2, 8)  # the second one of the same step has its own
    assert not th.equal(noise_of(model.q_net), online)
    online = noise_of(model.q_net)
    model.predict(np.zeros(4, np.float32), deterministic=True)
    assert th.equal(noise_of(model.q_net), online)


# --------------------------------------------------------------------- refusals


def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights() -> None:
    model = filled()
    model.replay_buffer.rewards[:] = np.nan
    before = [p.clone() for p in model.q_net.parameters()]
    with pytest.raises(NonFiniteError):
        model.train(1, 8)
    assert all(th.equal(a, b) for a, b in zip(before, model.q_net.parameters(), strict=True))


def test_refusals() -> None:
    with pytest.raises(RefusedError, match="only supports"):
        DER("MlpPolicy", "Pendulum-v1")
    with pytest.raises(RefusedError, match="CnnPolicy cannot take"):
        DER("CnnPolicy", "CartPole-v1", device="cpu")
    with pytest.raises(RefusedError, match="v_min"):
        make(v_min=10.0)
    with pytest.raises(RefusedError, match="n_atoms=1"):
        make(n_atoms=1)
    with pytest.raises(RefusedError, match="too small"):
        make(buffer_size=4)
    with pytest.raises(RefusedError, match="image_shift"):
        make(image_shift=4)


# ---------------------------------------------------------------------- presets


class Images(gym.Env[Any, Any]):
    """Random Atari-sized stacks of frames."""

    observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = spaces.Discrete(6)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.stack = np.zeros((4, 84, 84), np.uint8)
        return self._push(), {}

    def _push(self) -> Any:
        new = self.np_random.integers(0, 256, (1, 84, 84), np.uint8)
        self.stack = np.concatenate([self.stack[1:], new])
        return self.stack

    def step(self, action: Any) -> Any:
        return self._push(), 1.0, bool(self.np_random.random() < 0.1), False, {}


# Of the paper page, section 3: n, minimum of replay, updates, target period in updates.
PAGE = {
    "der": (20, 1_600, 1, 2_000),
    "der-dopamine": (10, 1_600, 1, 2_000),
    "otrainbow": (3, 20_000, 8, 4_000),
    "drq-eps": (10, 1_600, 1, 1),
    "spr-rainbow": (10, 2_000, 2, 1),
    "rainbow": (3, 20_000, 1, 2_000),
}


@pytest.mark.parametrize("preset", DER.PRESETS)
def test_presets_train_on_images(preset: str) -> None:
    settings = DER.PRESETS[preset]
    model = DER("CnnPolicy", Images(), seed=0, device="cpu", **{**settings, "buffer_size": 500})
    found = (model.n_steps, model.learning_starts, model.gradient_steps)
    assert (*found, model.target_update_interval) == PAGE[preset]
    model.learning_starts = 30
    model.learn(34)
    assert model._n_updates == {"rainbow": 2}.get(preset, 4) * model.gradient_steps
    assert model.policy.head.n_atoms == (1 if preset == "drq-eps" else 51)
    noisy = "weight_sigma" in dict(model.q_net.advantage.named_parameters())
    assert noisy == (preset not in ("otrainbow", "drq-eps"))
    if preset == "drq-eps":  # uniform replay
        leaves = model.replay_buffer.sum_tree.get(np.arange(500))
        assert set(leaves) == {0.0, 1.0}
    assert set(PAGE) == set(DER.PRESETS)


BASE: dict[str, Any] = {"exploration_steps": 100, "target_update_interval": 25}


@cache
def trained_state() -> dict[str, th.Tensor]:
    return make(**BASE).learn(90).policy.state_dict()


# Every argument of the update: with another value, the weights end elsewhere.
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 3e-4), ("learning_starts", 25), ("batch_size", 9), ("gamma", 0.9),
        ("train_freq", 2), ("gradient_steps", 2), ("n_steps", 2), ("target_update_interval", 10),
        ("priority_exponent", 1.0), ("beta_initial", 0.9), ("beta_final", 0.4), ("n_atoms", 21),
        ("distributional", False), ("v_min", -5.0), ("v_max", 5.0), ("double", False),
        ("dueling", False), ("sigma", 0.5), ("sigma", None), ("warmup", "uniform"),
        ("exploration_initial_eps", 0.5), ("max_grad_norm", 0.01), ("buffer_size", 30),
        ("policy_kwargs", {"net_arch": [16, 16], "adam_eps": 1e-2}),
        ("policy_kwargs", {"net_arch": [16, 16], "shared_hidden": True}),
        ("policy_kwargs", {"net_arch": [16, 16], "bias_fan": "in"}),
    ],
)  # fmt: skip
def test_every_argument_reaches_its_place(name: str, value: Any) -> None:
    a, b = trained_state(), make(**{**BASE, name: value}).learn(90).policy.state_dict()
    same_shapes = a.keys() == b.keys() and all(a[k].shape == b[k].shape for k in a)
    assert not same_shapes or any(not th.equal(a[k], b[k]) for k in a)
