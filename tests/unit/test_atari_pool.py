"""Atari in envpool: step by step the games of ale-py, in training and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from rlzoo import DER
from rlzoo.agents.registry import get_agent
from rlzoo.config.resolve import resolve
from rlzoo.envs import TrainingVecEnv, make_env, make_vec, policy_for
from rlzoo.envs.envpool_vec import Batch
from rlzoo.errors import RefusedError
from rlzoo.runs.evaluate import make_eval_env
from rlzoo.runs.train import environments

for module in ("ale_py", "cv2"):
    pytest.importorskip(module, reason='needs pip install "rlzoo[atari]"')
pytest.importorskip("envpool", reason='needs pip install "rlzoo[coinrun]"')

GAME = "ALE/RoadRunner-v5"


def pool(env_id: str = GAME, n_envs: int = 1, **kwargs: Any) -> Any:
    return make_vec(env_id, n_envs, backend="envpool", **kwargs)


def moves(vec: Any, steps: int, seed: int = 0) -> np.ndarray:
    """Random actions; in RoadRunner more to the left at first, which scores before lives go."""
    rng = np.random.default_rng(seed)
    found = rng.integers(vec.action_space.n, size=(steps, vec.num_envs))
    if vec.action_space.n == 18:
        found[:180][rng.random(found[:180].shape) < 0.6] = 4
    return found


# --- against ale-py ------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("game", ["RoadRunner", "KungFuMaster", "Breakout", "Qbert"])
def test_every_step_is_that_of_ale_py(game: str, training: bool) -> None:
    """After one no-op each: frames, stacks, rewards, lives, ends, scores, and what is told."""
    kwargs: dict[str, Any] = {"training": training, "noop_max": 1}
    ours, theirs = pool(f"ALE/{game}-v5", 2, **kwargs), make_vec(f"ALE/{game}-v5", 2, **kwargs)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    lost, games, scored = 0, 0, 0.0
    for row in moves(ours, 1000 if game == "KungFuMaster" else 700):
        seen, rewards, dones, infos = ours.step(row)
        expected, their_rewards, their_dones, their_infos = theirs.step(row)
        np.testing.assert_array_equal(seen, expected)
        np.testing.assert_array_equal(rewards, their_rewards)
        np.testing.assert_array_equal(dones, their_dones)
        scored += their_rewards.sum()
        for info, other in zip(infos, their_infos, strict=True):
            assert info["lives"] == other["lives"]
            assert info["TimeLimit.truncated"] is bool(other["TimeLimit.truncated"])
            assert ("episode" in info) == ("episode" in other)
            assert ("terminal_observation" in info) == ("terminal_observation" in other)
            if "episode" in info:  # the game is over
                games += 1
                assert info["episode"]["r"] == other["episode"]["r"]
                assert info["episode"]["l"] == other["episode"]["l"]
                # The game ended before the four frames were over, so the newest is not whole.
                np.testing.assert_array_equal(
                    info["terminal_observation"][:-1], other["terminal_observation"][:-1]
                )
            elif "terminal_observation" in info:
                lost += 1
                np.testing.assert_array_equal(
                    info["terminal_observation"], other["terminal_observation"]
                )
    assert games >= 1
    assert scored > 0
    assert (lost >= 2) == training


def test_games_start_after_one_to_thirty_no_ops_as_in_ale_py() -> None:
    vec = pool("ALE/Freeway-v5", n_envs=100)  # in which every frame is another
    starts = vec.reset()
    assert not starts[:, :3].any()  # blank, not the first frame four times
    game: Any = make_env("ALE/Freeway-v5", noop_max=0, frame_skip=1, frame_stack=1)
    game.reset(seed=0)
    after = [b"", *(game.step(0)[0].tobytes() for _ in range(35))]
    noops = [after.index(start[3].tobytes()) for start in starts]
    assert 1 <= min(noops) <= 3
    assert 28 <= max(noops) <= 30
    assert len(set(noops)) > 20


def test_a_game_is_cut_after_27000_steps() -> None:
    """Without FIRE there is no ball in Breakout, so nothing else ends it."""
    vec = pool("ALE/Breakout-v5", training=True)
    vec.reset()
    still = np.array([0])
    for _ in range(26_999):
        dones = vec.step(still)[2]
        assert not dones[0]
    seen, _, dones, infos = vec.step(still)
    assert dones[0]
    assert infos[0]["TimeLimit.truncated"]
    assert infos[0]["episode"]["l"] == 27_000
    assert infos[0]["terminal_observation"].any(axis=(1, 2)).all()
    assert not seen[0, :3].any()  # a new game
    assert pool(frame_skip=8)._config["max_episode_steps"] == 13_500


def test_steps_of_a_limit_are_steps_of_the_agent() -> None:
    for vec in (pool(max_episode_steps=5), make_vec(GAME, max_episode_steps=5)):
        vec.reset()
        found = [vec.step(np.array([0])) for _ in range(10)]
        assert [bool(step[2][0]) for step in found] == ([False] * 4 + [True]) * 2
        assert found[4][3][0]["TimeLimit.truncated"]
        assert found[9][3][0]["episode"]["l"] == 5


def test_life_loss_and_clipping_can_be_chosen_one_by_one() -> None:
    for life_loss, clip in ((True, False), (False, True)):
        vec = pool(noop_max=1, life_loss=life_loss, clip_rewards=clip, training=life_loss)
        vec.reset()
        steps = [vec.step(row) for row in moves(vec, 500)]
        assert any(step[2][0] for step in steps) == life_loss
        assert (max(step[1][0] for step in steps) == 1) == clip


def test_no_life_is_lost_with_the_last_one() -> None:
    """Some games go on for a few frames with no life left, as SB3's wrapper says."""
    vec = pool(n_envs=3, training=True)
    vec._lives[:] = [3, 1, 2]
    nothing = np.zeros(3, bool)
    batch = Batch(None, nothing, nothing, nothing, {"lives": np.array([2, 0, 2])})
    assert vec._ends(batch, nothing).tolist() == [True, False, False]


def test_the_emulator_is_that_of_the_protocol_and_can_be_changed() -> None:
    vec = pool("ALE/Pong-v5", frame_stack=2, screen_size=42, full_action_space=True)
    assert vec.reset().shape == (1, 2, 42, 42)
    assert vec.action_space.n == 18
    assert pool()._config["repeat_action_probability"] == 0.0
    assert pool(repeat_action_probability=0.25)._config["repeat_action_probability"] == 0.25
    for name in ("use_fire_reset", "episodic_life", "reward_clip"):
        assert not pool(training=True)._config.get(name, False)


def test_sticky_actions_are_off() -> None:
    def play(**kwargs: Any) -> list[bytes]:
        vec = pool("ALE/Pong-v5", noop_max=1, **kwargs)
        return [vec.reset().tobytes()] + [vec.step(row)[0].tobytes() for row in moves(vec, 100)]

    same = play()
    assert play(seed=1) == same  # nothing is random but the no-ops
    assert play(repeat_action_probability=0.25) != same


# --- seeds and runs ------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [7, 40, 500])
def test_replay_brings_fresh_games_into_the_same_state(after: int) -> None:
    vec = TrainingVecEnv(pool(n_envs=2, training=True))
    vec.reset()
    for row in moves(vec, 50):
        vec.step(row)
    vec.barrier([11, 2**32 - 12])
    done = np.array([vec.step(row)[2] for row in moves(vec, after, seed=4)])
    if after == 500:
        assert done.sum(0).min() >= 2
    assert vec.seeds is not None
    again = TrainingVecEnv(pool(n_envs=2, seed=9, training=True, num_threads=2))
    last = again.replay(vec.seeds, vec.actions_since_barrier(), vec.resets_since_barrier())
    assert last is not None
    for row in moves(vec, 300, seed=6):
        ours, theirs = vec.step(row), again.step(row)
        for part in range(3):
            np.testing.assert_array_equal(ours[part], theirs[part])
        for info, other in zip(ours[3], theirs[3], strict=True):
            assert info.get("episode", {}).get("r") == other.get("episode", {}).get("r")


def test_what_is_seen_may_be_changed() -> None:
    """The frames of the next observations are not those that were handed out."""
    used, kept = pool(noop_max=1), pool(noop_max=1)
    used.reset()[:] = 7
    kept.reset()
    for row in moves(kept, 20):
        seen = used.step(row)[0]
        np.testing.assert_array_equal(seen, kept.step(row)[0])
        seen[:] = 7


def test_runs_train_in_the_one_and_evaluate_in_the_other() -> None:
    config = resolve(get_agent("der"), GAME, overrides=["run.env_kwargs.backend=envpool"])
    with environments(config, seed=0) as vec:
        inner: Any = vec.unwrapped
        assert (type(inner).__name__, inner.life_loss, inner.clip_rewards) == (
            "AtariVecEnv", True, True)  # fmt: skip
        model = DER("CnnPolicy", vec, learning_starts=10, buffer_size=60, device="cpu", seed=0)
        assert model.get_env() is vec  # no wrapper that moves the channels
        model.learn(20)
    evaluation: Any = make_eval_env(GAME, 2, **config.run_settings().env_kwargs)
    assert evaluation.num_envs == 2
    assert not evaluation.life_loss
    assert not evaluation.clip_rewards
    assert evaluation.env_is_wrapped(Monitor) == [True, True]
    assert policy_for(evaluation.observation_space) == "CnnPolicy"


def test_what_is_drawn_or_alone_is_ale_py() -> None:
    vec = pool(render_mode="rgb_array", num_threads=1)
    assert isinstance(vec, DummyVecEnv)
    vec.reset()
    assert vec.get_images()[0].shape == (210, 160, 3)
    env = make_env(GAME, backend="envpool", num_threads=1)
    np.testing.assert_array_equal(env.reset(seed=3)[0], make_env(GAME).reset(seed=3)[0])


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: pool(fire=True), "fire=True needs backend='gymnasium'"),
        (lambda: pool(noop_max=0), "noop_max=0 is out of range"),
        (lambda: pool(frame_stack=0), "frame_stack=0 is out of range"),
        (lambda: pool(frameskip=2), "Use frame_skip"),
        (lambda: pool(framestack=2), "Did you mean 'frame_stack'"),
        (lambda: pool(processes=True), "envpool, which has threads"),
        (lambda: pool("RoadRunner-v4"), "ALE/RoadRunner-v5 or RoadRunnerNoFrameskip-v4"),
        (lambda: pool("ALE/Carnival-v5"), "214 lines"),
        (lambda: make_vec(GAME, backend="envpol"), "Allowed: 'gymnasium' or 'envpool'"),
        (lambda: make_env(GAME, backend="envpol"), "Allowed: 'gymnasium' or 'envpool'"),
        (lambda: make_vec("CartPole-v1", backend="envpool"), "no backend 'envpool'"),
        (lambda: pool(split="train"), "has no split 'train'"),
    ],
)
def test_refusals(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        call()
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
