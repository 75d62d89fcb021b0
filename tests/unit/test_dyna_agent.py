"""DynaDQN as a whole: the shared update, what its arguments do, what it refuses."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlzoo.agents.dyna_dqn import DynaDQN, dyna_dqn
from rlzoo.agents.dyna_dqn.neural_model import NeuralModel
from rlzoo.agents.dyna_dqn.transitions import Batch

SMALL: dict[str, Any] = {
    "seed": 0, "device": "cpu", "learning_starts": 40, "batch_size": 16, "planning_steps": 16,
    "model_arch": [8], "n_models": 2, "model_epochs": 2, "model_interval": 30,
    "policy_kwargs": {"net_arch": [8]},
}  # fmt: skip
SOURCES = ["replay", "forward", "backward", "rollout", "act"]


def make(**kwargs: Any) -> DynaDQN:
    settings = {**SMALL, **kwargs}
    env = settings.pop("env", "CartPole-v1")
    settings["policy_kwargs"] = dict(settings["policy_kwargs"])
    return DynaDQN("MlpPolicy", env, **settings)


def trained(steps: int = 100, **kwargs: Any) -> DynaDQN:
    return make(**kwargs).learn(steps)


def weights(model: DynaDQN) -> th.Tensor:
    return th.cat([p.detach().flatten() for p in model.q_net.parameters()])


def batch(n: int = 6, **changes: Any) -> Batch:
    generator = th.Generator().manual_seed(3)
    fields: dict[str, Any] = {
        "observations": th.rand(n, 4, generator=generator),
        "actions": th.arange(n) % 2,
        "rewards": th.rand(n, generator=generator),
        "next_observations": th.rand(n, 4, generator=generator),
        "dones": th.zeros(n),
        "discounts": th.full((n,), 0.9),
        "weights": th.ones(n),
    }
    return Batch(**{**fields, **changes})


# ------------------------------------------------------------------------- the update


@pytest.mark.parametrize(("double", "chosen"), [(True, 0), (False, 1)])
def test_the_online_network_chooses_and_the_target_network_values(
    double: bool, chosen: int
) -> None:
    model = make(double=double, policy_kwargs={"net_arch": []})
    for network, biases in ((model.q_net, [5.0, 1.0]), (model.q_net_target, [10.0, 20.0])):
        layer = network[0]  # type: ignore[index]
        with th.no_grad():
            layer.weight.zero_()
            layer.bias.copy_(th.tensor(biases))
    dones = th.tensor([0.0, 1.0, 0.25])
    found = model._targets(batch(3, dones=dones))
    value = [10.0, 20.0][chosen]
    assert th.allclose(found, batch(3).rewards + 0.9 * (1 - dones) * value)


def test_no_gradient_reaches_the_target() -> None:
    model = make().learn(0)
    before = [p.clone() for p in model.q_net_target.parameters()]
    assert not model._targets(batch()).requires_grad
    model._update(batch())
    after = model.q_net_target.parameters()
    assert all(th.equal(a, b) for a, b in zip(before, after, strict=True))


def test_rows_without_weight_change_nothing() -> None:
    first, second, without = make().learn(0), make().learn(0), make().learn(0)
    dropped = th.tensor([1.0, 1, 1, 1, 0, 0])
    first._update(batch(weights=dropped))
    second._update(batch(weights=dropped, rewards=batch().rewards + 100 * (1 - dropped)))
    without._update(Batch(*(tensor[:4] for tensor in batch())))
    assert th.equal(weights(first), weights(second))
    assert th.allclose(weights(first), weights(without), atol=1e-7)
    before = weights(first)
    first._update(batch(weights=th.zeros(6)))  # the momentum of Adam is all that moves
    assert weights(first).isfinite().all()
    assert (before - weights(first)).abs().max() < 1e-2


def test_losses_that_are_not_finite_stop_before_the_weights() -> None:
    model = make()
    before = weights(model)
    with pytest.raises(RuntimeError, match="not finite"):
        model._update(batch(rewards=th.full((6,), float("nan"))))
    assert th.equal(before, weights(model))


def test_the_target_is_copied_every_so_many_updates() -> None:
    model = make(target_update_interval=3).learn(0)
    same = []
    for _ in range(6):
        model._update(batch())
        pairs = zip(model.q_net.parameters(), model.q_net_target.parameters(), strict=True)
        same.append(all(th.equal(a, b) for a, b in pairs))
    assert same == [False, False, True, False, False, True]


@pytest.mark.parametrize("source", SOURCES[1:])
def test_learning_values_leaves_the_model_alone(source: str) -> None:
    model = trained(source=source)
    dynamics = model.policy.dynamics
    assert isinstance(dynamics, NeuralModel)
    before = {k: v.clone() for k, v in dynamics.state_dict().items()}
    model._fitted_at = model._real_steps  # no fit is due
    model.train(5, 16)
    assert all(th.equal(v, before[k]) for k, v in dynamics.state_dict().items())
    assert all(p.grad is None for p in dynamics.parameters())


def test_fits_come_every_so_many_real_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    at: list[tuple[int, int]] = []
    fit = dyna_dqn.fit

    def watched(model: Any, data: Batch, *args: Any) -> Any:
        at.append((agent._real_steps, data.size))
        return fit(model, data, *args)

    monkeypatch.setattr(dyna_dqn, "fit", watched)
    agent = make(source="forward", buffer_size=80)
    agent.learn(150)
    assert at == [(41, 41), (71, 71), (101, 80), (131, 80)]


def test_a_model_learns_what_the_buffer_holds() -> None:
    env = DummyVecEnv([lambda: gym.make("CartPole-v1") for _ in range(2)])
    model = make(env=env, source="forward").learn(60)
    assert model.replay_buffer is not None
    data = model._control(model.replay_buffer).everything()
    stored = model.replay_buffer
    n = stored.size()
    assert data.size == 2 * n == 60
    assert np.array_equal(data.observations.numpy(), stored.observations[:n].reshape(-1, 4))
    assert np.array_equal(data.next_observations[1], stored.next_observations[0, 1])
    assert np.array_equal(data.actions.numpy(), stored.actions[:n].reshape(-1))
    assert np.array_equal(data.dones.numpy(), stored.dones[:n].reshape(-1))


def test_time_limits_are_not_ends_for_the_model() -> None:
    env = gym.make("Acrobot-v1", max_episode_steps=10)
    model = make(env=env, source="forward").learn(60)
    assert model.replay_buffer is not None
    assert model.replay_buffer.dones.sum() >= 5
    assert model._control(model.replay_buffer).everything().dones.sum() == 0


def test_the_newest_rows_of_a_full_buffer() -> None:
    model = trained(70, buffer_size=30)
    assert model.replay_buffer is not None
    control = model._control(model.replay_buffer)
    found = control.newest(40)
    assert found.size == 30
    last = control.newest(1)
    assert th.equal(last.observations[0], found.observations[-1])
    assert np.array_equal(last.next_observations[0], model._last_obs[0]) or bool(last.dones)  # type: ignore[index]


def test_planning_sees_normalised_observations() -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    env.obs_rms.mean, env.obs_rms.var = np.full(4, 100.0), np.ones(4)
    env.training = False
    model = make(env=env, source="forward").learn(60)
    assert model.policy.dynamics.observations.mean.max() < -5  # type: ignore[union-attr]


# -------------------------------------------------------------------------- arguments

CHANGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"learning_rate": 1e-2}),
    ({}, {"gamma": 0.5}),
    ({}, {"batch_size": 8}),
    ({}, {"planning_steps": 32}),
    ({}, {"train_freq": 2}),
    ({}, {"learning_starts": 50}),
    ({}, {"buffer_size": 20}),
    ({}, {"double": False, "target_update_interval": 5}),
    ({}, {"target_update_interval": 5}),
    ({}, {"learn_from_real": True}),
    ({}, {"exploration_fraction": 0.9}),
    (
        {"exploration_fraction": 1.0},
        {"exploration_fraction": 1.0, "exploration_initial_eps": 0.0},
    ),
    ({}, {"exploration_final_eps": 0.9}),
    ({}, {"max_grad_norm": 1e-12}),
    ({}, {"max_grad_norm": None, "learning_rate": 1e-2}),
    ({}, {"policy_kwargs": {"net_arch": [9]}}),
    ({}, {"policy_kwargs": {"net_arch": [8], "optimizer": "sgd"}}),
    ({}, {"policy_kwargs": {"net_arch": [8], "adam_eps": 1.0}}),
    *(({}, {"source": source}) for source in SOURCES[1:]),
    ({"source": "forward"}, {"source": "forward", "actions": "policy"}),
    ({"source": "forward"}, {"source": "forward", "max_disagreement": 0.0}),
    ({"source": "backward"}, {"source": "backward", "max_disagreement": 0.0}),
    *(
        ({"source": "rollout"}, {"source": "rollout", **changed})
        for changed in (
            {"rollout_length": 2}, {"rollout_target": "return"}, {"actions": "policy"},
        )
    ),
    *(
        ({"source": "forward"}, {"source": "forward", **changed})
        for changed in (
            {"model_interval": 100}, {"n_models": 3}, {"model_arch": [9]},
            {"model_learning_rate": 0.1}, {"model_weight_decay": 1.0}, {"model_batch_size": 8},
            {"model_validation": 0.5}, {"model_epochs": 1},
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(CHANGES)))
def test_every_argument_reaches_its_place(case: int) -> None:
    before, after = CHANGES[case]
    left, right = trained(**before), trained(**after)
    a, b = weights(left), weights(right)
    assert a.shape != b.shape or not th.equal(a, b)


def test_patience_reaches_the_fit() -> None:
    kwargs = {"source": "forward", "model_learning_rate": 1e-12, "model_epochs": 9}
    epochs = []
    for patience in (2, 4):
        model = make(model_patience=patience, **kwargs).learn(60, log_interval=None)
        epochs.append(model.logger.name_to_value["model/epochs"])
    assert epochs == [2, 4]


def test_rollouts_of_one_step_are_forward_planning() -> None:
    first = trained(source="rollout", rollout_length=1)
    assert th.equal(weights(first), weights(trained(source="forward")))
    second = trained(source="rollout", rollout_length=1, rollout_target="return")
    assert th.allclose(weights(second), weights(trained(source="forward")), atol=1e-6)


def test_epsilon_falls_linearly() -> None:
    model = make(exploration_fraction=0.5, exploration_final_eps=0.1)
    rates = []
    for remaining in (1.0, 0.75, 0.5, 0.0):
        model._current_progress_remaining = remaining
        rates.append(model.exploration_rate)
    assert rates == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert make(exploration_fraction=0.0).exploration_rate == pytest.approx(0.05)


def test_actions_of_a_policy_are_epsilon_greedy() -> None:
    model = make(exploration_initial_eps=0.5, exploration_final_eps=0.5)
    features = th.rand(4000, 4)
    th.manual_seed(0)
    greedy = model.q_net(features).argmax(-1)
    share = (model._choose(features) != greedy).float().mean()
    assert abs(float(share) - 0.25) < 0.03


def test_act_looks_one_step_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(source="act")
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    direct = model.q_net(th.as_tensor(observations)).argmax(-1).numpy()

    def backup(observations: Any, actions: Any, value: Any, gamma: float) -> th.Tensor:
        return actions.float()  # always the last action

    monkeypatch.setattr(model.policy.dynamics, "backup", backup)
    ahead, _ = model.predict(observations, deterministic=True)
    assert ahead.tolist() == [1] * 50
    assert not np.array_equal(direct, ahead)
    # Without data there is nothing to look at.
    fresh = make(source="act")
    expected = fresh.q_net(th.as_tensor(observations)).argmax(-1).numpy()
    assert np.array_equal(fresh.predict(observations, deterministic=True)[0], expected)


@pytest.mark.parametrize("source", SOURCES)
def test_a_loaded_copy_has_the_model(source: str, tmp_path: Any) -> None:
    model = trained(source=source)
    model.save(tmp_path / "model")
    loaded = DynaDQN.load(tmp_path / "model", device="cpu")
    mine, theirs = model.policy.state_dict(), loaded.policy.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(th.equal(v, theirs[k]) for k, v in mine.items())
    assert any("dynamics" in k for k in mine) == (source != "replay")
    assert loaded._fitted_at == model._fitted_at
    assert loaded.counters() == model.counters()


@pytest.mark.parametrize("preset", DynaDQN.PRESETS)
def test_presets_train(preset: str) -> None:
    settings = dict(DynaDQN.PRESETS[preset])
    small = {k: v for k, v in SMALL.items() if k not in ("batch_size", "planning_steps")}
    if preset == "dyna-q":
        model = DynaDQN("MlpPolicy", "FrozenLake-v1", **{**small, **settings}).learn(30)
    else:
        sizes = {"batch_size": 16, "planning_steps": 16} if preset != "dqn-style" else {}
        model = DynaDQN("MlpPolicy", "CartPole-v1", **{**small, **sizes, **settings}).learn(60)
    assert model._n_updates > 0


# -------------------------------------------------------------------------- refusals


class Odd(gym.Env[Any, Any]):
    """An environment of any spaces."""

    def __init__(self, observation_space: Any, action_space: Any = None) -> None:
        self.observation_space = observation_space
        self.action_space = action_space or spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("env", "match"),
    [
        (
            Odd(spaces.Box(0, 255, (3, 36, 36), np.uint8)),
            "observation space[\\s\\S]*rlzoo train der",
        ),
        (Odd(spaces.Dict({"a": spaces.Discrete(3)})), "observation space"),
        (Odd(spaces.MultiBinary(3)), "observation space"),
        (Odd(spaces.Box(0, 1, (2,)), spaces.Box(-1, 1, (1,))), "Discrete"),
    ],
)
def test_spaces_that_are_refused(env: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make(env=env)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"planning_steps": 40}, "multiple of the batch size"),
        ({"source": "sideways"}, "'replay', 'forward'"),
        ({"model": "tabular"}, "Set model=neural"),
        ({"env": "FrozenLake-v1", "model": "neural"}, "Set model=tabular"),
        ({"rollout_length": 0}, "rollout_length"),
        ({"model_validation": 1.0}, "model_validation"),
        ({"gamma": 1.1}, "gamma"),
        ({"max_disagreement": -0.1}, "max_disagreement"),
    ],
)
def test_settings_that_are_refused(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match) as error:
        make(**kwargs)
    assert len(str(error.value).splitlines()) <= 3


def test_observations_with_several_dimensions_are_flattened() -> None:
    env = Odd(spaces.Box(0, 1, (5, 4), np.float32))
    model = make(env=env, source="backward").learn(60)
    assert model.policy.n_obs == 20
    assert model.predict(env.observation_space.sample())[0].shape == ()
