"""How policies are evaluated: which episodes count, random actions, the final evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from rlzoo.cli.main import main
from rlzoo.core.seeding import stream
from rlzoo.errors import RefusedError
from rlzoo.runs.evaluate import RandomShare, evaluate, make_eval_env, run_episodes
from rlzoo.runs.policies import evaluate_policy_spec, locate
from rlzoo.runs.provenance import plain_settings
from rlzoo.runs.resume import ResumeRequest, resume
from rlzoo.runs.train import TrainRequest, train


class Left:
    """Always the same action: returns depend on the initial states only."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        self.batches.append(len(observation))
        return np.zeros(len(observation), np.int64), state


class Counting(gym.Env[Any, Any]):
    """Episodes of the given lengths, one after the other; counts the steps that are taken."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Discrete(4)

    def __init__(self, lengths: list[int]) -> None:
        self.lengths, self.episode, self.left, self.steps = lengths, -1, 0, 0
        self.actions: list[int] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.left = self.lengths[self.episode % len(self.lengths)]
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        self.left -= 1
        self.actions.append(int(action))
        return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}


def vector(*lengths: list[int], monitor: bool = True) -> tuple[DummyVecEnv, list[Counting]]:
    envs = [Counting(of_env) for of_env in lengths]
    wrapped = [Monitor(env) if monitor else env for env in envs]
    return DummyVecEnv([lambda env=env: env for env in wrapped]), envs  # type: ignore[misc]


# --- which episodes count ------------------------------------------------------------------------


@pytest.mark.parametrize("monitor", [True, False])
def test_long_episodes_count_as_much_as_short_ones(monitor: bool) -> None:
    """One environment has short episodes: the first six to end would be (almost) all its own."""
    env, _ = vector([2], [50], [50], monitor=monitor)
    returns, lengths = run_episodes(Left(), env, 6, seed=0)
    assert sorted(returns) == [2, 2, 50, 50, 50, 50]
    np.testing.assert_array_equal(returns, lengths)


def test_environments_that_have_played_their_share_rest() -> None:
    env, envs = vector([5], [5], [40])
    policy = Left()
    run_episodes(policy, env, 3, seed=0)
    assert [one.steps for one in envs] == [5, 5, 40]
    assert policy.batches == [3] * 5 + [1] * 35


def test_fewer_episodes_than_environments_are_played_by_the_first() -> None:
    env, envs = vector([3], [4], [5])
    returns, _ = run_episodes(Left(), env, 2, seed=0)
    assert sorted(returns) == [3, 4]
    assert envs[2].steps == 0


@pytest.mark.parametrize("episodes", [1, 4, 7, 10])
def test_the_episodes_are_those_of_sb3(episodes: int) -> None:
    env = make_eval_env("CartPole-v1", 4)
    returns, lengths = run_episodes(Left(), env, episodes, seed=5)
    n = min(4, episodes)
    theirs = make_eval_env("CartPole-v1", n)
    theirs._seeds = [stream(5, "eval", "eval", index) for index in range(n)]
    expected: Any = evaluate_policy(Left(), theirs, episodes, return_episode_rewards=True)
    assert (returns.tolist(), lengths.tolist()) == expected


def test_more_environments_change_nothing_about_the_first_episodes() -> None:
    few, many = make_eval_env("CartPole-v1", 3), make_eval_env("CartPole-v1", 30, max_envs=12)
    assert (few.num_envs, many.num_envs) == (3, 12)
    for epsilon in (0.0, 0.5):
        ours, theirs = (run_episodes(Left(), e, 3, 1, epsilon=epsilon)[0] for e in (few, many))
        np.testing.assert_array_equal(ours, theirs)


def test_policies_with_a_state_keep_their_rows() -> None:
    class Stateful(Left):
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            state = np.zeros(len(observation)) if state is None else state
            state = np.where(episode_start, 0, state + 1)
            self.steps = state
            return super().predict(observation, state)

    env, _ = vector([5], [5], [40])
    policy = Stateful()
    returns, _ = run_episodes(policy, env, 3, seed=0)
    assert sorted(returns) == [5, 5, 40]
    assert set(policy.batches) == {3}
    assert policy.steps[2] == 39


def test_lost_lives_are_no_ends_of_games() -> None:
    class Lives(gym.Wrapper[Any, Any, Any, Any]):
        """Below it, Monitor records the whole game, as in Atari trainings."""

        def reset(self, **_: Any) -> Any:
            over = self.env.unwrapped.left == 0
            return self.env.reset() if over else (np.zeros(1, np.float32), {})

        def step(self, action: Any) -> Any:
            observation, reward, terminated, truncated, info = self.env.step(action)
            life = self.env.unwrapped.left % 4 == 0
            return observation, reward, terminated or life, truncated, info

    env = DummyVecEnv([lambda: Lives(Monitor(Counting([12])))])
    returns, _ = run_episodes(Left(), env, 3, seed=0)
    assert returns.tolist() == [12, 12, 12]


# --- random actions ------------------------------------------------------------------------------


def test_the_share_of_random_actions_is_epsilon() -> None:
    env, envs = vector([2000], [2000])
    run_episodes(Left(), env, 2, seed=0, epsilon=0.2)
    for one in envs:
        others = np.mean(np.array(one.actions) != 0)  # a random action is the same one in four
        assert others == pytest.approx(0.15, abs=0.03)
        assert set(one.actions) == {0, 1, 2, 3}
    assert envs[0].actions != envs[1].actions  # each has a stream of its own


def test_random_actions_follow_from_the_seed_and_the_name_of_the_evaluation() -> None:
    def actions(**changes: Any) -> list[int]:
        env, (one,) = vector([200])
        run_episodes(Left(), env, 1, **{"seed": 3, "name": "final", "epsilon": 0.3, **changes})
        return one.actions

    assert actions() == actions()
    assert actions(seed=4) != actions() != actions(name=100)
    assert actions(first=1) != actions()
    assert set(actions(epsilon=0.0)) == {0}
    assert len(set(actions(epsilon=1.0))) == 4


def test_without_random_actions_no_random_number_is_drawn() -> None:
    env, _ = vector([3])
    actions = np.array([2])
    assert RandomShare(env.action_space, 0.0, [1])(actions, np.array([0])) is actions


@pytest.mark.parametrize(
    ("space", "epsilon", "said"),
    [
        (spaces.Discrete(2), 1.5, "eval_epsilon=1.5 is out of range"),
        (spaces.Discrete(2), -0.1, "out of range"),
        (spaces.Box(-np.inf, np.inf, (2,)), 0.1, "no uniform actions"),
        (spaces.MultiBinary(2), 0.1, "MultiBinary"),
    ],
)
def test_random_shares_that_cannot_be(space: Any, epsilon: float, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        RandomShare(space, epsilon)
    RandomShare(space, 0.0)  # nothing is drawn: any space will do


def test_random_actions_in_a_box_stay_inside() -> None:
    env = make_eval_env("Pendulum-v1", 1)
    share = RandomShare(env.action_space, 1.0, [7])
    drawn = [share(np.zeros((1, 1), np.float32), np.array([0])) for _ in range(200)]
    assert all(env.action_space.contains(action[0]) for action in drawn)
    assert np.ptp(drawn) > 3


# --- runs ----------------------------------------------------------------------------------------


def request(folder: Path, *overrides: str, **changes: Any) -> TrainRequest:
    small = ("learning_starts=20", "n_steps=1", "policy_kwargs.net_arch=[8]", "batch_size=8")
    overrides = (*small, *overrides)
    values = {"steps": 60, "eval_freq": 30, "eval_episodes": 2, "device": "cpu", **changes}
    return TrainRequest("der", "CartPole-v1", run_dir=folder, overrides=overrides, **values)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train(request(folder, "final_eval_episodes=5", "eval_envs=4", eval_epsilon=0.25))
    return folder


def test_the_final_policy_is_evaluated_in_more_episodes(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    assert result["final"]["episodes"] == 5
    assert result["best"]["episodes"] == 2
    assert [step for step, _ in result["curve"]] == [30, 60]
    protocol = result["evaluation"]
    assert (protocol["policy"], protocol["episodes"], protocol["epsilon"]) == ("final", 5, 0.25)
    assert (protocol["episodes_during_training"], protocol["n_envs"]) == (2, 4)
    assert protocol["scale"] is None


def test_a_scale_is_written_down_with_its_source(tmp_path: Path) -> None:
    small = ("learning_starts=5", "policy_kwargs.net_arch=[8]", "eval_freq=10")
    found = train(
        TrainRequest("sac", "Hopper-v4", run_dir=tmp_path / "r", steps=10, eval_episodes=1,
                     device="cpu", overrides=small)
    )  # fmt: skip
    scale = found.record["evaluation"]["scale"]
    assert (scale["score"], scale["expert"]) == ("D4RL-normalised score", 3234.3)
    assert "D4RL" in scale["source"]
    assert found.record["final"]["normalized"] is not None


def test_eval_takes_the_random_share_of_the_run(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert locate(str(finished)).run.eval_epsilon == 0.25
    assert locate(str(finished), "CartPole-v1").run.eval_epsilon == 0.25
    assert locate(str(finished), "Acrobot-v1").run.eval_epsilon == 0.0

    def returns(*options: str) -> float:
        assert main(["eval", str(finished), "--episodes", "6", "--json", *options]) == 0
        return float(json.loads(capsys.readouterr().out)["return_mean"])

    assert returns() == returns("--eval-epsilon", "0.25")
    assert returns("--eval-epsilon", "0") != returns()
    _, found = evaluate_policy_spec(str(finished), episodes=6, device="cpu", epsilon=0.0)
    assert found.return_mean == returns("--eval-epsilon", "0")


def test_a_random_share_out_of_range_is_refused(finished: Path, tmp_path: Path) -> None:
    assert main(["eval", str(finished), "--eval-epsilon", "2"]) == 2
    with pytest.raises(RefusedError, match="eval_epsilon"):
        train(request(tmp_path / "run", eval_epsilon=-0.5))
    assert not (tmp_path / "run").exists()


def test_runs_of_earlier_versions_go_on_and_the_last_evaluation_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that does not know a setting has its default."""
    new = ("run.eval_epsilon", "run.final_eval_episodes", "run.eval_envs")

    def as_it_was(config: Any) -> dict[str, Any]:
        return {name: v for name, v in plain_settings(config).items() if name not in new}

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("rlzoo.runs.training.plain_settings", as_it_was)
        train(request(folder))
    with pytest.raises(RefusedError, match=r"eval_epsilon: 0.0 -> 0.5"):
        resume(ResumeRequest(folder, steps=90, overrides=("eval_epsilon=0.5",)))
    found = resume(ResumeRequest(folder, steps=90, overrides=("final_eval_episodes=3",)))
    assert found is not None
    assert found.record["final"]["episodes"] == 3


def test_evaluations_are_not_counted_as_learning(tmp_path: Path) -> None:
    """A hundred games at the end would halve the speed that the record tells."""
    from rlzoo.runs.callbacks import Evaluator
    from rlzoo.runs.signals import StopSignals

    env, _ = vector([50], [50])
    with StopSignals(print) as stop:
        evaluator = Evaluator(None, env, "x", 1, 2, 0, None, stop)  # type: ignore[arg-type]
        evaluator.evaluate(Left(), "final", 20)  # type: ignore[arg-type]
    assert evaluator.seconds > 0


def test_evaluations_agree_with_their_episodes() -> None:
    env = make_eval_env("CartPole-v1", 5)
    found = evaluate(Left(), env, "CartPole-v1", 5, seed=2, epsilon=0.1)
    returns, lengths = run_episodes(Left(), env, 5, seed=2, epsilon=0.1)
    assert found.return_mean == returns.mean()
    assert found.length_mean == lengths.mean()
    assert found.episodes == 5
