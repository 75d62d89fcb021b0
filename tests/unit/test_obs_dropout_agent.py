"""The agent: acting, both routes through episodes, arguments, files (page, tests 3, 5, 13)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TransformAction
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from rlzoo import ObservationalDropout, make_vec
from rlzoo.agents.observational_dropout.environments import Plan, play_in_env, simulator_of
from rlzoo.core.seeding import stream
from rlzoo.core.simulator_vec import SimulatorVecEnv
from rlzoo.core.swingup import CartPoleSwingUp
from rlzoo.errors import RefusedError

EASY, HARD = "rlzoo/CartPoleSwingUp-v0", "rlzoo/CartPoleSwingUpHard-v0"
SMALL: dict[str, Any] = {
    "pop_size": 6, "n_eval_episodes": 2, "peek_prob": 0.4, "seed": 0, "device": "cpu",
    "policy_kwargs": {"net_arch": [4], "model_arch": [5]},
}  # fmt: skip


def short(hard: bool = True, n_envs: int = 1, max_steps: int = 30) -> SimulatorVecEnv:
    return SimulatorVecEnv(CartPoleSwingUp(hard, max_steps), n_envs)


def make(env: Any = None, **kwargs: Any) -> ObservationalDropout:
    return ObservationalDropout("MlpPolicy", short() if env is None else env, **{**SMALL, **kwargs})


def state_of(model: ObservationalDropout) -> list[float]:
    return [*model.policy.vector.tolist(), *model.search_state.tolist()]


# ---------------------------------------------------------------------- acting


def test_predict_of_many_is_predict_of_each() -> None:
    """Peeks differ between calls, so the flags are given."""
    model = make(zero_policy=False)
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(4, 6, 5)).astype(np.float32)
    flags = rng.random((4, 6)) < 0.5
    states: list[Any] = [None] * 6
    together: Any = None
    for t in range(4):
        if t:
            together = (together[0], flags[t])
        actions, together = model.predict(observations[t], together, np.zeros(6, bool))
        for row in range(6):
            if t:
                states[row] = (states[row][0], flags[t, row : row + 1])
            alone, states[row] = model.predict(observations[t, row : row + 1], states[row])
            np.testing.assert_allclose(alone[0], actions[row], atol=1e-6)
            np.testing.assert_allclose(states[row][0][0], together[0][row], atol=1e-5)


def test_a_start_in_the_middle_of_a_batch_looks_there_only() -> None:
    model = make(zero_policy=False)
    observations = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    believed = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    blind = (believed, np.zeros(3, bool))
    seen, _ = model.predict(observations)
    dreamt, _ = model.predict(believed)
    mixed, _ = model.predict(observations, blind, np.array([False, True, False]))
    np.testing.assert_array_equal(mixed, np.stack([dreamt[0], seen[1], dreamt[2]]))
    np.testing.assert_array_equal(model.predict(observations, blind)[0], dreamt)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_share_of_peeks_in_predict(p: float) -> None:
    model = make(peek_prob=p)
    observations, state, looks = np.zeros((50, 5), np.float32), None, []
    for _ in range(100):
        _, state = model.predict(observations, state, np.zeros(50, bool))
        assert state is not None
        looks.append(state[1])
    assert np.mean(looks) == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 5_000) + 1e-12)
    mixed = [row.any() and not row.all() for row in looks]  # each environment has its own luck
    assert all(mixed) if p == 0.3 else not any(mixed)
    model.set_peek_prob(1.0)
    assert model.predict(observations, state)[1][1].all()  # type: ignore[index]
    with pytest.raises(RefusedError, match="peek_prob"):
        model.set_peek_prob(1.5)


def test_the_seed_gives_the_peeks() -> None:
    def looks(model: ObservationalDropout) -> list[Any]:
        return [model.predict(np.zeros((9, 5), np.float32))[1][1].tolist() for _ in range(5)]  # type: ignore[index]

    first, model = looks(make()), make()
    assert looks(model) == first
    assert looks(model) != first
    model.set_random_seed(0)
    assert looks(model) == first


def test_sb3s_evaluations_run() -> None:
    model = make(peek_prob=0.2)
    mean, _ = evaluate_policy(model, short(n_envs=2), 4)
    assert np.isfinite(mean)
    callback = EvalCallback(short(n_envs=2), eval_freq=1, n_eval_episodes=2, verbose=0)
    model.learn(400, callback=callback)
    assert callback.n_calls >= 2  # once per block of steps
    assert np.isfinite(callback.last_mean_reward)


# ---------------------------------------------------------------------- routes


def test_the_simulator_is_found_behind_wrappers() -> None:
    for kwargs in ({}, {"backend": "gymnasium"}):
        vec = make_vec(HARD, 2, max_episode_steps=20, **kwargs)  # type: ignore[arg-type]
        task = simulator_of(vec)
        assert isinstance(task, CartPoleSwingUp)
        assert (task.hard, task.max_steps) == (True, 20)
    assert simulator_of(make_vec("Pendulum-v1")) is None
    assert simulator_of(VecNormalize(make_vec(HARD), norm_reward=False)) is not None
    assert make(VecNormalize(make_vec(HARD)))._simulator() is None
    assert make(backend="env")._simulator() is None
    assert make(n_steps=5)._simulator() is None


def test_kinds_of_models() -> None:
    assert make().policy.world_model == "cartpole"
    assert make("Pendulum-v1").policy.world_model == "residual"
    assert make(world_model="none").policy.networks.model.shapes == ()
    assert ObservationalDropout("MlpPolicy", short(), device="cpu").policy.vector.shape == (1033,)


@pytest.mark.parametrize("n_envs", [1, 4, 7])
def test_slots_are_episodes_of_predict(n_envs: int) -> None:
    """Every (candidate, episode) again with SB3's interface, from its seed and its flags."""
    env, task = short(n_envs=n_envs, max_steps=40), short(max_steps=40)
    model = make(env)
    candidates = 2 * th.randn(4, len(model.policy.vector))
    plan = Plan(model.policy.networks, candidates, 2, 0.4, seed=9, gamma=0.9)
    steps: list[Any] = []
    scores = play_in_env(env, None, plan, lambda scope: steps.append(scope) is None)
    assert scores is not None
    assert len(steps) >= 40 * 8 // n_envs // 2
    for c in range(4):
        for e in range(2):
            model.policy.load_vector(candidates[c])
            rng = np.random.default_rng(stream(9, "peeks", c % 2, e))
            task._seeds = [stream(9, "start", c % 2, e)]
            obs, state, total, done, t = task.reset(), None, 0.0, False, 0
            while not done:
                action, state = model.predict(obs, state)
                obs, reward, dones, _ = task.step(action)
                total, done, t = total + 0.9**t * float(reward[0]), bool(dones[0]), t + 1
                state = (state[0], np.array([rng.random() < 0.4]))  # type: ignore[index]
            assert float(scores.returns[c, e]) == pytest.approx(total, abs=1e-4)
            assert int(scores.lengths[c, e]) == t


def test_turns_of_some_steps_go_on_in_the_same_episode() -> None:
    env = make_vec("Pendulum-v1", 2, max_episode_steps=50)
    model = make(env, n_steps=5)
    resets: list[int] = []
    reset = env.reset
    env.reset = lambda: resets.append(1) or reset()  # type: ignore[method-assign, func-returns-value]
    model.learn(120)
    assert resets == [1]
    assert model.num_timesteps == 120
    assert model._n_updates == 2  # 12 turns of 5 steps each
    assert len(model.ep_info_buffer or ()) == 2  # of 50 steps each


@pytest.mark.parametrize("backend", ["simulator", "env"])
def test_steps_and_episodes_are_counted(backend: Any) -> None:
    class Counter(BaseCallback):
        dones = 0

        def _on_step(self) -> bool:
            self.dones += int(self.locals["dones"].sum())
            assert len(self.locals["infos"]) == len(self.locals["rewards"])
            return True

    counter = Counter()
    model = make(short(hard=False, n_envs=3), backend=backend, stats_window_size=100)
    model.learn(700, callback=counter)
    assert model.num_timesteps == 2 * 6 * 2 * 30  # two generations, no episode ends early
    assert counter.dones == 24
    assert model.ep_info_buffer is not None
    assert [info["l"] for info in model.ep_info_buffer] == [30] * 24


@pytest.mark.parametrize("backend", ["simulator", "env"])
def test_a_callback_ends_a_training_at_once(backend: Any) -> None:
    model = make(backend=backend).learn(10**6, callback=lambda scope, _: False)
    assert model._n_updates == 0
    assert model.num_timesteps <= 12 * 30


def test_the_best_candidate_is_kept() -> None:
    model = make(short(False)).learn(2_000)
    assert model.best_score is not None
    assert not th.equal(model.best_vector, model.policy.vector)
    assert model.best_score >= float(model.logger.name_to_value.get("rollout/pop_max", -1))


# ------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "changed",
    [
        {"learning_rate": 0.1}, {"peek_prob": 0.9}, {"pop_size": 8}, {"n_eval_episodes": 3},
        {"optimizer": "openes"}, {"sigma_init": 0.3}, {"sigma_decay": 0.5}, {"sigma_limit": 0.2},
        {"sigma_lr": 0.01}, {"sigma_max_change": 1e-4}, {"adam_beta1": 0.5},
        {"weight_decay": 5.0}, {"gamma": 0.5}, {"zero_policy": True}, {"backend": "env"},
        {"n_steps": 7}, {"world_model": "residual"}, {"seed": 1},
        {"policy_kwargs": {"net_arch": [3], "model_arch": [5]}},
        {"policy_kwargs": {"net_arch": [4], "model_arch": [2]}},
    ],
    ids=lambda changed: "-".join([*changed, *map(str, changed.values())]),
)  # fmt: skip
def test_every_argument_changes_what_is_learned(changed: dict[str, Any]) -> None:
    usual = {"zero_policy": False}
    learned = state_of(make(**usual).learn(800))
    assert learned != state_of(make(**{**usual, **changed}).learn(800))
    assert learned == state_of(make(**usual).learn(800))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pop_size": 5}, "even"), ({"pop_size": 0}, "pop_size"), ({"peek_prob": -0.1}, "peek_pro"),
        ({"optimizer": "cmaes"}, "Did you mean 'cma'"), ({"world_model": "conv"}, "world_model"),
        ({"backend": "simulator", "n_steps": 4}, "simulator"),
    ],
)  # fmt: skip
def test_refusals(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError, match=words) as refused:
        make(**arguments)
    assert len(str(refused.value).splitlines()) <= 3


def test_environments_that_cannot_be_used() -> None:
    several = TransformAction(
        gym.make("CartPole-v1"), lambda action: action[0], gym.spaces.MultiDiscrete([2])
    )
    with pytest.raises(RefusedError, match="only supports"):
        make(several)
    with pytest.raises(RefusedError, match="none"):
        make("Pendulum-v1", backend="simulator")
    with pytest.raises(RefusedError, match="residual"):
        make("Pendulum-v1", world_model="cartpole")
    images = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    with pytest.raises(RefusedError, match="not an image"):
        ObservationalDropout.policy_aliases["MlpPolicy"](images, gym.spaces.Box(-1, 1, (1,)))


# ----------------------------------------------------------------------- files


@pytest.mark.parametrize("optimizer", ["pepg", "openes", "cma"])
def test_a_loaded_copy_goes_on_the_same(tmp_path: Path, optimizer: Any) -> None:
    if optimizer == "cma":
        pytest.importorskip("cma")
    model = make(optimizer=optimizer, sigma_init=0.4).learn(600)
    model.save(tmp_path / "model")
    loaded = ObservationalDropout.load(tmp_path / "model", env=short(), device="cpu")
    assert loaded.best_score == model.best_score
    assert th.equal(loaded.best_vector, model.best_vector)
    for copy in (model, loaded):
        copy.learn(1_200, reset_num_timesteps=False)
    assert state_of(loaded) == state_of(model)
    assert model._generation == loaded._generation > 3


def test_a_file_needs_no_environment_to_act(tmp_path: Path) -> None:
    model = make(peek_prob=0.3, zero_policy=False)
    model.save(tmp_path / "model")
    loaded = ObservationalDropout.load(tmp_path / "model", device="cpu")
    assert loaded.policy.world_model == "cartpole"
    assert loaded.policy.peek_prob == 0.3
    observations = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(observations)[0], model.predict(observations)[0])
    with pytest.raises(RefusedError, match="environment"):
        loaded.learn(10)
