"""DAEMPC: when it fits and plans, what predict carries, diagnostics, refusals (page, 8, 13)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlzoo import DAEMPC
from rlzoo.agents.dae_mpc import fitting
from rlzoo.agents.dae_mpc.diagnostics import GapTracker
from rlzoo.agents.dae_mpc.dynamics import Rollout
from rlzoo.agents.dae_mpc.memory import from_buffer
from rlzoo.agents.dae_mpc.presets import PRESETS
from rlzoo.core.mpc_tasks import MpcTask, find_task, get_task, known, register_task
from rlzoo.errors import RefusedError

SMALL: dict[str, Any] = {
    "horizon": 4,
    "n_candidates": 12,
    "n_elites": 3,
    "n_iters": 2,
    "n_restarts": 4,
    "batch_size": 16,
    "model_epochs": 2,
    "buffer_size": 500,
    "seed": 0,
    "device": "cpu",
    "policy_kwargs": {"net_arch": [8, 8]},
}


def make_env(n_envs: int = 1, steps: int = 20, env_id: str = "Pendulum-v1") -> DummyVecEnv:
    return DummyVecEnv([lambda: gym.make(env_id, max_episode_steps=steps)] * n_envs)


def make(env: Any = None, **kwargs: Any) -> DAEMPC:
    settings = {**SMALL, **kwargs}
    settings["policy_kwargs"] = dict(settings["policy_kwargs"])
    return DAEMPC("MlpPolicy", make_env() if env is None else env, **settings)


# ------------------------------------------------------------------ fits and plans


def count(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, note: Callable[..., Any]
) -> list[Any]:
    """Note something at every call of a method."""
    noted: list[Any] = []
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        noted.append(note(*args, **kwargs))
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)
    return noted


def test_the_first_plan_comes_after_the_first_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    fits = count(monkeypatch, model, "_fit", lambda *_: model.num_timesteps)
    plans = count(monkeypatch, model, "_plan", lambda: model.num_timesteps)
    model.learn(60)
    assert fits == [20, 40, 60]  # after each episode
    assert plans == list(range(20, 60))


def test_more_random_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(n_random_episodes=2)
    fits = count(monkeypatch, model, "_fit", lambda *_: model.num_timesteps)
    model.learn(60)
    assert fits == [40, 60]


def test_fits_between_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(make_env(2), model_interval=15)
    fits = count(monkeypatch, model, "_fit", lambda *_: model.num_timesteps)
    model.learn(80)
    assert fits == [30, 60]  # steps of each of the two environments


def test_steps_of_a_fit_and_its_cap(tmp_path: Path) -> None:
    model = make(model_epochs=3)
    assert model.learn(20)._n_updates == 3 * 2  # 20 rows are two batches
    capped = make(model_epochs=50, max_grad_steps=7)
    capped.set_logger(configure(str(tmp_path), ["csv"]))
    assert capped.learn(21)._n_updates == 7
    assert capped.logger.name_to_value["model/capped"] == 1.0


def test_weights_go_on_unless_drawn_again() -> None:
    kept, drawn = make(learning_rate=1e-12), make(learning_rate=1e-12, reset_nets=True)
    for model in (kept, drawn):
        before = model.policy.dynamics.network.stacked[0].weight.detach().clone()
        model.learn(20)
        after = model.policy.dynamics.network.stacked[0].weight
        assert th.allclose(before, after, atol=1e-6) == (model is kept)


def test_statistics_are_those_of_everything_stored() -> None:
    model = make().learn(40)
    assert model.replay_buffer is not None
    data = from_buffer(model.replay_buffer)
    pairs = th.cat((data.observations, data.actions), -1)
    normalizer = model.policy.dynamics.inputs
    th.testing.assert_close(normalizer.mean, pairs.mean(0), rtol=1e-4, atol=1e-5)
    th.testing.assert_close(normalizer.scale, pairs.std(0, correction=0), rtol=1e-4, atol=1e-5)
    deltas = data.next_observations - data.observations
    th.testing.assert_close(
        model.policy.dynamics.targets.mean, deltas.mean(0), rtol=1e-3, atol=1e-5
    )


def test_targets_may_stay_as_they_are() -> None:
    model = make(normalize_targets=False).learn(20)
    assert th.equal(model.policy.dynamics.targets.scale, th.ones(3))


def test_actions_are_stored_scaled_and_taken_in_units() -> None:
    model = make().learn(40)
    assert model.replay_buffer is not None
    buffer = model.replay_buffer
    assert np.abs(buffer.actions[:40]).max() <= 1
    theta, action = buffer.observations[:40, 0], 2 * buffer.actions[:40, 0, 0]
    angle = np.arctan2(theta[:, 1], theta[:, 0])
    rewards = -(angle**2 + 0.1 * theta[:, 2] ** 2 + 0.001 * action**2)
    np.testing.assert_allclose(buffer.rewards[:40, 0], rewards, rtol=1e-4, atol=1e-4)


def test_noise_is_added_and_stays_in_the_bounds() -> None:
    quiet, noisy = make(), make(action_noise=NormalActionNoise(np.zeros(1), 5 * np.ones(1)))
    for model in (quiet, noisy):
        model.learn(40)
        assert model.replay_buffer is not None
    found = np.abs(noisy.replay_buffer.actions[20:40])  # type: ignore[union-attr]
    assert found.max() <= 1
    assert (found == 1).mean() > 0.5 > (np.abs(quiet.replay_buffer.actions[20:40]) == 1).mean()  # type: ignore[union-attr]


def test_windows_of_several_environments_do_not_mix() -> None:
    model = make(make_env(3, steps=7), window=3, model_interval=10).learn(60)
    assert model.replay_buffer is not None
    data = from_buffer(model.replay_buffer)
    assert len(data) == 60
    # 20 steps each: episodes of 7, 7 and 6 steps, so two breaks and the step to the next one.
    assert (~data.follows).sum().item() == 3 * 2 + 2
    newest = from_buffer(model.replay_buffer, 2)
    assert th.equal(newest.observations[-2:], data.observations[-2:])
    assert th.equal(newest.observations[:2], data.observations[18:20])


def test_a_full_buffer_is_read_in_the_order_of_time() -> None:
    model = make(buffer_size=30).learn(45)
    assert model.replay_buffer is not None
    assert model.replay_buffer.full
    data = from_buffer(model.replay_buffer)
    # Steps 15 to 44; episodes end after 20 and 40.
    assert (~data.follows).nonzero().flatten().tolist() == [4, 24]


# ------------------------------------------------------------------------ predict


def trained(**kwargs: Any) -> DAEMPC:
    return make(**kwargs).learn(21)


def test_the_state_is_the_plan_moved_on() -> None:
    model = trained()
    obs = np.array([[1.0, 0.0, 0.5], [-1.0, 0.1, 2.0]], np.float32)
    actions, state = model.predict(obs, deterministic=True)
    assert state is not None
    plans, age = state
    assert plans.shape == (2, 4, 1)
    assert age.tolist() == [1, 1]
    assert not plans[:, -1].any()
    found, _ = model.policy.decide(th.from_numpy(obs), None, None, True)
    np.testing.assert_allclose(actions, 2 * found.plans[0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(plans[:, :-1], found.plans[1:].transpose(0, 1).numpy())


def test_a_warm_start_matters_and_an_episode_start_forgets_it() -> None:
    model = trained()
    obs = np.array([[1.0, 0.0, 0.5]] * 3, np.float32)
    cold, _ = model.predict(obs, deterministic=True)
    state = (np.full((3, 4, 1), 0.9, np.float32), np.full(3, 5))
    begins = np.array([True, False, True])
    warm, _ = model.predict(obs, state, begins, deterministic=True)
    assert (warm == cold).flatten().tolist() == begins.tolist()
    with pytest.raises(ValueError, match="expected"):
        model.predict(obs[:2], state, deterministic=True)


def test_plans_are_kept_between_two_plannings(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(replan_every=3)
    planned = count(monkeypatch, type(model.policy.decider), "__call__", lambda *_: 1)
    obs, state = np.array([[1.0, 0.0, 0.5]], np.float32), None
    actions, states = [], []
    for step in range(6):
        action, state = model.predict(obs + step, state, deterministic=True)
        actions.append(action.item())
        states.append(state)
    assert len(planned) == 2
    first = states[0][0][0, :, 0]  # type: ignore[index]
    np.testing.assert_allclose(actions[1:3], 2 * first[:2], rtol=1e-6)
    # A row that begins is planned for, the other goes on.
    both = (np.repeat(states[0][0], 2, 0), np.array([1, 1]))  # type: ignore[index]
    again, _ = model.predict(np.repeat(obs, 2, 0), both, np.array([False, True]), True)
    assert again[0].item() == pytest.approx(2 * first[0])
    assert again[1].item() == pytest.approx(actions[0])


def test_random_numbers_of_a_plan() -> None:
    model = trained()
    obs = np.array([[1.0, 0.0, 0.5]], np.float32)

    def act(deterministic: bool) -> float:
        return float(model.predict(obs, deterministic=deterministic)[0].item())

    th.manual_seed(1)
    first, second = act(False), act(False)
    assert first != second
    th.manual_seed(1)
    assert act(False) == first
    assert act(True) == act(True)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"planner": "adam"},
        {"planner": "random"},
        {"n_ensemble": 2, "propagation": "tsinf", "n_particles": 4},
        {"n_ensemble": 3},
        {"window": 3, "dae_hinge": 0.9, "dae_target": 0.1, "dae_residual": True},
        {"dae": False, "alpha": 0.0},
        {"reward": "learned", "gamma": 0.9},
        {"dae_stop_gradient": True, "planner": "adam", "alpha": 1.0},
    ],
    ids=str,
)
def test_saved_agents_plan_identically(kwargs: dict[str, Any], tmp_path: Path) -> None:
    model = trained(**kwargs)
    model.save(tmp_path / "model")
    loaded = DAEMPC.load(tmp_path / "model", device="cpu")
    obs = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    left, right = (agent.predict(obs, deterministic=True) for agent in (model, loaded))
    np.testing.assert_array_equal(left[0], right[0])
    np.testing.assert_array_equal(left[1][0], right[1][0])  # type: ignore[index]
    assert loaded.policy.spec == model.policy.spec
    assert (np.abs(left[0]) <= 2).all()


# ----------------------------------------------------------- settings reach the plan


CHANGES: dict[str, dict[str, Any]] = {
    "alpha": {"alpha": 50.0},
    "horizon": {"horizon": 3},
    "n_candidates": {"n_candidates": 20},
    "n_elites": {"n_elites": 1},
    "n_iters": {"n_iters": 3},
    "smoothing": {"smoothing": 0.5},
    "gamma": {"gamma": 0.3},
    "reward": {"reward": "learned"},
    "window": {"window": 2, "alpha": 50.0},
    "sigma": {"sigma": 0.9, "alpha": 50.0},
    "dae_hinge": {"dae_hinge": 0.5, "alpha": 50.0},
    "dae_target": {"dae_target": 3.0, "alpha": 50.0},
    "dae_residual": {"dae_residual": True, "alpha": 50.0},
    "n_ensemble": {"n_ensemble": 2},
    "weight_decay": {"weight_decay": (1.0,)},
    "batch_size": {"batch_size": 7},
    "model_epochs": {"model_epochs": 9},
    "normalize_targets": {"normalize_targets": False},
    "planner": {"planner": "random"},
    "learning_rate": {"learning_rate": 1e-2},
}


@pytest.fixture(scope="module")
def plain_actions() -> dict[float, np.ndarray]:
    return {alpha: actions_of(alpha=alpha) for alpha in (0.01, 50.0)}


def actions_of(**kwargs: Any) -> np.ndarray:
    """Return actions, and what they are thought to be worth: few steps move elites seldom."""
    obs = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    model = trained(**kwargs)
    found, _ = model.policy.decide(th.from_numpy(obs), None, None, True)
    worth = model.policy.imagine(th.from_numpy(obs), found.plans).objective
    return np.concatenate((found.plans[0].numpy(), worth.numpy()), 1)


@pytest.mark.parametrize("name", CHANGES)
def test_every_setting_changes_what_is_done(
    name: str, plain_actions: dict[float, np.ndarray]
) -> None:
    kwargs = CHANGES[name]
    base = plain_actions[0.01 if name == "alpha" else kwargs.get("alpha", 0.01)]
    assert not np.array_equal(actions_of(**kwargs), base)


@pytest.mark.parametrize(
    "kwargs", [{"plan_lr": 0.5}, {"n_restarts": 9}, {"dae_stop_gradient": True}], ids=str
)
def test_settings_of_adam(kwargs: dict[str, Any]) -> None:
    adam = {"planner": "adam", "alpha": 5.0}
    assert not np.array_equal(actions_of(**adam, **kwargs), actions_of(**adam))


def test_set_alpha() -> None:
    model = trained(alpha=0.0)
    obs = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    before = model.predict(obs, deterministic=True)[0]
    model.set_alpha(100.0)
    assert not np.array_equal(model.predict(obs, deterministic=True)[0], before)
    model.set_alpha(0.0)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], before)
    with pytest.raises(RefusedError, match="out of range"):
        model.set_alpha(-1.0)


# -------------------------------------------------------------------- diagnostics


def test_what_is_logged(tmp_path: Path) -> None:
    model = make(make_env(2))
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(120, log_interval=2)
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    wanted = {
        "plan/imagined_return", "plan/realised_return_H", "plan/gap", "plan/penalty",
        "plan/nan_count", "model/nll", "model/val_mse", "dae/loss", "dae/train_error_q95",
    }  # fmt: skip
    assert wanted <= set(header)
    assert "time/plan_ms" not in header  # two equal runs write equal files


def test_gap_by_hand() -> None:
    tracker = GapTracker(3, 1, gamma=0.5)
    rewards = [1.0, 2.0, 4.0, 8.0, 16.0]
    found = []
    for step, reward in enumerate(rewards):
        found.append(tracker.begin(np.array([10.0 + step])))
        tracker.reward(np.array([reward]), np.array([False]))
    assert found[:3] == [None] * 3
    assert found[3] == (3.0, 10.0 - 3.0)  # 1 + 2 / 2 + 4 / 4
    assert found[4] == (6.0, 11.0 - 6.0)


def test_gap_leaves_out_what_an_end_cuts_off_and_comes_back_from_a_file() -> None:
    tracker = GapTracker(2, 2)
    for step in range(3):
        tracker.begin(np.array([1.0, 1.0]))
        tracker.reward(np.ones(2), np.array([step == 1, False]))
    other = GapTracker(2, 2)
    other.set_state(tracker.get_state())
    for one in (tracker, other):
        assert one.begin(None) == (2.0, -1.0)  # the second environment alone
        one.reward(np.ones(2), np.array([False, False]))
        assert one.begin(None) == (2.0, -1.0)


def test_the_gap_of_a_true_model_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promises and rewards are counted over the same steps, in the same units."""
    model = make(make_env(steps=12), horizon=3, replan_every=3)
    gaps: list[float] = []
    original = model._gaps.begin

    def begin(imagined: Any) -> Any:
        found = original(imagined)
        if found is not None:
            gaps.append(found.gap)
        return found

    model.learn(12)

    def true_step(first: th.Tensor, actions: th.Tensor) -> Any:
        states, pairs = [first], []
        raw = (
            actions * model.policy.dynamics.inputs.scale[3:] + model.policy.dynamics.inputs.mean[3:]
        )
        for action in raw:
            c, s, speed = states[-1].unbind(-1)
            later = speed + (15 * s + 3 * 2 * action[:, 0]) * 0.05
            later = later.clamp(-8, 8)
            angle = th.atan2(s, c) + later * 0.05
            states.append(th.stack((angle.cos(), angle.sin(), later), -1))
            pairs.append(th.cat((states[-2], action), -1))
        return Rollout(th.stack(states), th.stack(pairs))

    monkeypatch.setattr(model._gaps, "begin", begin)
    monkeypatch.setattr(model.policy.dynamics, "_roll_in_place", true_step)
    monkeypatch.setattr(model, "_fit_is_due", lambda: False)
    model.learn(12, reset_num_timesteps=False)
    # Every third promise is kept to the end before it is revised.
    assert len(gaps) == 9
    np.testing.assert_allclose(gaps[::3], 0, atol=1e-4)


def test_val_mse_is_measured_before_the_new_rows_are_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    model = make()
    monkeypatch.setattr(
        "rlzoo.agents.dae_mpc.dae_mpc.prediction_error",
        lambda _, data: order.append(f"error of {len(data.pairs)}") or th.zeros(()),
    )
    original = fitting.fit

    def fit(*args: Any, **kwargs: Any) -> Any:
        order.append("fit")
        return original(*args, **kwargs)

    monkeypatch.setattr("rlzoo.agents.dae_mpc.dae_mpc.fit", fit)
    model.learn(40)
    assert order == ["fit", "error of 20", "fit"]


# ------------------------------------------------------------------ tasks and refusals


def test_reward_of_the_pendulum_is_that_of_gymnasium() -> None:
    env = gym.make("Pendulum-v1")
    obs, _ = env.reset(seed=3)
    task = get_task("Pendulum-v1")
    assert task.reward is not None
    for _ in range(50):
        action = env.action_space.sample()
        after, reward, *_ = env.step(action)
        o, a, n = (th.as_tensor(x, dtype=th.float64).unsqueeze(0) for x in (obs, action, after))
        assert task.reward(o, a, n).item() == pytest.approx(float(reward), abs=1e-5)
        obs = after


def test_what_is_known_is_found_by_the_id() -> None:
    assert not make().policy.dynamics.learned_reward
    other = make(make_env(env_id="MountainCarContinuous-v0"))
    assert other.policy.dynamics.learned_reward
    assert other.policy.spec.task is None
    assert make(reward="learned").policy.dynamics.learned_reward
    assert make(reward="learned").policy.task is find_task("Pendulum-v1")


def test_a_task_of_the_user_comes_back_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "_TASKS", dict(known._TASKS))
    mine = MpcTask(
        "mine", 3, 1,
        reward=lambda o, a, following: following[..., 2],
        features=lambda o: o[..., :2] * 2,
        value_dims=(1,),
        dae_dims=(1,),
    )  # fmt: skip
    assert register_task(mine) is register_task(mine) is mine
    with pytest.raises(RefusedError, match="already"):
        register_task(replace(mine, value_dims=()))
    model = trained(task="mine", reward="known")
    assert model.policy.denoiser is not None
    assert model.policy.denoiser.net.linear[0].in_features == 2  # one feature, one action
    assert model.policy.dynamics.n_features == 2
    model.save(tmp_path / "model")
    assert DAEMPC.load(tmp_path / "model", device="cpu").policy.task is mine
    del known._TASKS["mine"]
    with pytest.raises(RefusedError, match="Register it first"):
        DAEMPC.load(tmp_path / "model", device="cpu")


def three_lines(error: RefusedError) -> None:
    assert len(str(error).splitlines()) <= 3


def test_an_unknown_reward_is_refused_when_demanded() -> None:
    with pytest.raises(RefusedError, match=r"reward='known'.*MountainCar[\s\S]*Pendulum") as caught:
        make(make_env(env_id="MountainCarContinuous-v0"), reward="known")
    three_lines(caught.value)
    with pytest.raises(RefusedError, match="Did you mean 'Pendulum-v1'"):
        make(task="Pendulum-v0")
    with pytest.raises(RefusedError, match="3 and 1"):
        make(make_env(env_id="MountainCarContinuous-v0"), task="Pendulum-v1")


def test_spaces_that_cannot_be_used() -> None:
    with pytest.raises(RefusedError, match="only supports") as caught:
        make(gym.make("CartPole-v1"))
    three_lines(caught.value)

    class Images(gym.ObservationWrapper):  # type: ignore[type-arg]
        def __init__(self) -> None:
            super().__init__(gym.make("Pendulum-v1"))
            self.observation_space = spaces.Box(0, 255, (40, 40, 3), np.uint8)

        def observation(self, observation: Any) -> Any:
            return np.zeros((40, 40, 3), np.uint8)

    with pytest.raises(RefusedError, match="not an image"):
        make(Images())


def test_normalised_observations_are_refused() -> None:
    with pytest.raises(RefusedError, match="VecNormalize") as caught:
        make(VecNormalize(make_env()))
    three_lines(caught.value)
    model = make()
    with pytest.raises(RefusedError, match="VecNormalize"):
        model.set_env(VecNormalize(make_env()))
    env = VecNormalize(make_env(), norm_obs=False)
    learned = make(env, reward="learned").learn(40)
    assert learned.replay_buffer is not None
    assert learned.replay_buffer.rewards[:40].min() < -3  # stored as they are
    assert np.abs(learned._gaps.realised).max() > 3


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_elites": 13}, "as many elites"),
        ({"window": 5}, "fits into the plan"),
        ({"dae": False}, "without a denoiser"),
        ({"propagation": "tsinf", "n_particles": 3, "n_ensemble": 2}, "multiple of the ensemble"),
        ({"planner": "sgd"}, "not known"),
        ({"sigma": 0.0}, "out of range"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_together(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message) as caught:
        make(**kwargs)
    three_lines(caught.value)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_accepted(name: str) -> None:
    model = DAEMPC("MlpPolicy", make_env(), device="cpu", **PRESETS[name])
    assert model.predict(np.zeros((1, 3), np.float32), deterministic=True)[0].shape == (1, 1)


def test_a_diverged_model_is_counted_and_survived(tmp_path: Path) -> None:
    model = trained()
    with th.no_grad():
        model.policy.dynamics.network.stacked[-1].bias.fill_(th.nan)
    action, _ = model.predict(np.zeros((1, 3), np.float32), deterministic=True)
    assert np.isfinite(action).all()
    found, _ = model.policy.decide(th.zeros(1, 3), None, None, True)
    assert found.n_bad.item() == 2 * 12  # every candidate of every iteration
