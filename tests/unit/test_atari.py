"""Atari: the protocol frame by frame, training against evaluation, exact replay, and refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from rlzoo import DER
from rlzoo.agents.registry import get_agent
from rlzoo.config.resolve import ResolvedConfig, resolve
from rlzoo.envs import TrainingVecEnv, check_action_space, make_env, make_vec, policy_for
from rlzoo.errors import RefusedError
from rlzoo.runs.evaluate import make_eval_env
from rlzoo.runs.train import environments

ale_py: Any = pytest.importorskip("ale_py", reason='needs pip install "rlzoo[atari]"')
cv2: Any = pytest.importorskip("cv2", reason='needs pip install "rlzoo[atari]"')

GAME = "ALE/RoadRunner-v5"
OLD_ID = "RoadRunnerNoFrameskip-v4"


def actions(n: int, n_envs: int | None = None, seed: int = 0) -> Any:
    """Random actions: they lose three lives within 300 steps, and score nothing."""
    shape = n if n_envs is None else (n, n_envs)
    return np.random.default_rng(seed).integers(18, size=shape)


def scoring_actions(n: int) -> Any:
    """Actions that, after a reset with seed 3, score and lose a life in the first 230 steps."""
    rng = np.random.default_rng(3)
    left = np.where(rng.random(500) < 0.7, 4, rng.integers(18, size=500))[:180]
    return np.concatenate([left, actions(max(n - 180, 0))])[:n]


def play(env: gym.Env[Any, Any], moves: Any) -> list[tuple[Any, ...]]:
    """Step through episodes without a stop, with resets that have no seed."""
    steps = []
    for move in moves:
        observation, reward, terminated, truncated, info = env.step(int(move))
        steps.append((observation, float(reward), terminated, truncated, info))
        if terminated or truncated:
            steps.append((env.reset()[0],))
    return steps


def assert_same(ours: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1:4] == other[1:4]


# --- protocol ------------------------------------------------------------------------------------


class Reference:
    """The protocol on the bare emulator: four frames, the maximum of two, grey, 84 x 84."""

    def __init__(self, game: str) -> None:
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(ale_py.roms.get_rom_path(game))
        self.actions = self.ale.getMinimalActionSet()
        self.ale.reset_game()

    def step(self, action: int) -> tuple[Any, float]:
        reward, screens = 0.0, []
        for _ in range(4):
            reward += self.ale.act(self.actions[action])
            screens.append(self.ale.getScreenGrayscale())
        image = np.maximum(screens[2], screens[3])
        return cv2.resize(image, (84, 84), interpolation=cv2.INTER_AREA), reward


@pytest.mark.parametrize("env_id", [GAME, OLD_ID])
def test_every_step_is_that_of_the_protocol(env_id: str) -> None:
    env, reference = make_env(env_id), Reference("road_runner")
    observation, info = env.reset(seed=3)
    for _ in range(info["episode_frame_number"]):
        reference.ale.act(ale_py.Action.NOOP)
    assert observation.shape == (4, 84, 84)
    assert observation.dtype == np.uint8
    assert not observation[:3].any()  # blank, not the first frame four times
    stack, score = list(observation), 0.0
    for move in scoring_actions(200):
        frame, reward = reference.step(move)
        stack = [*stack[1:], frame]
        observation, ours, terminated, truncated, _ = env.step(int(move))
        np.testing.assert_array_equal(observation, stack)
        assert ours == reward
        assert not terminated
        assert not truncated
        score += reward
    assert score >= 200  # in hundreds, so neither clipped nor cut at the life lost
    assert reference.ale.lives() < 3


def test_games_start_after_one_to_thirty_no_ops() -> None:
    env = make_env(GAME)
    starts = [env.reset(seed=seed)[1]["episode_frame_number"] for seed in range(30)]
    assert min(starts) >= 1
    assert 25 <= max(starts) <= 30
    assert len(set(starts)) > 10
    assert make_env(GAME, noop_max=0).reset(seed=0)[1]["episode_frame_number"] == 0


def test_games_are_cut_after_108000_frames_which_is_no_termination() -> None:
    env: Any = make_env(GAME)
    assert env.unwrapped.ale.getInt("max_num_frames_per_episode") == 108_000
    for training in (False, True):
        vec = make_vec(GAME, training=training, max_num_frames_per_episode=100, noop_max=0)
        vec.reset()
        ends = [vec.step(np.array([0])) for _ in range(25)]
        assert [bool(end[2][0]) for end in ends] == [False] * 24 + [True]
        assert ends[-1][3][0]["TimeLimit.truncated"]


def test_steps_of_a_limit_are_steps_of_the_agent() -> None:
    env = make_env(GAME, max_episode_steps=5)  # as videos have it
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(5)] == [False] * 4 + [True]


def test_fire_is_pressed_only_when_asked_for() -> None:
    """Without FIRE there is no ball in Breakout, and nothing moves."""
    for fire in (False, True):
        env = make_env("ALE/Breakout-v5", fire=fire)
        env.reset(seed=0)
        frames = [env.step(0)[0] for _ in range(8)][4:]
        assert any((frame[-1] != frames[0][-1]).any() for frame in frames) == fire
    plain, asked = make_env("ALE/Freeway-v5"), make_env("ALE/Freeway-v5", fire=True)
    np.testing.assert_array_equal(plain.reset(seed=1)[0], asked.reset(seed=1)[0])  # has no FIRE


def test_settings_of_the_emulator_and_of_the_protocol_can_be_changed() -> None:
    env = make_env("ALE/Pong-v5", frame_stack=2, screen_size=42, full_action_space=True)
    assert env.observation_space.shape == (2, 42, 42)
    assert env.action_space == spaces.Discrete(18)
    sticky: Any = make_env("ALE/Pong-v5", repeat_action_probability=0.25)
    assert sticky.unwrapped.ale.getFloat("repeat_action_probability") == 0.25
    assert make_env("ALE/Pong-v5").action_space == spaces.Discrete(6)


# --- training and evaluation ---------------------------------------------------------------------


def test_training_clips_rewards_and_ends_episodes_with_a_life() -> None:
    training, whole = make_env(GAME, training=True), make_env(GAME)
    np.testing.assert_array_equal(training.reset(seed=3)[0], whole.reset(seed=3)[0])
    lives, losses, rewards = 3, 0, []
    for move in scoring_actions(600):
        ours, theirs = training.step(int(move)), whole.step(int(move))
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1] == np.clip(theirs[1], -1, 1)
        rewards.append(theirs[1])
        assert ours[2] == (theirs[4]["lives"] < lives)
        assert not ours[3]
        if ours[2] and not theirs[2]:
            losses, lives = losses + 1, theirs[4]["lives"]
            first, expected = training.reset()[0], whole.step(0)[0]
            np.testing.assert_array_equal(first, expected)  # the game and its stack go on
            np.testing.assert_array_equal(first[:3], ours[0][1:])
        if theirs[2]:
            break
    assert max(rewards) >= 100
    assert losses == 2
    assert theirs[2]
    assert not training.reset()[0][:3].any()  # a new game


def test_the_monitor_records_whole_games_in_training_too() -> None:
    training, whole = (TrainingVecEnv(make_vec(GAME, training=t)) for t in (True, False))
    training.barrier([3])
    whole.barrier([3])
    ends, score, length = 0, 0.0, 0
    for move in scoring_actions(600):
        _, _, done, infos = training.step(np.array([move]))
        _, reward, over, theirs = whole.step(np.array([move]))
        ends, score, length = ends + done[0], score + reward[0], length + 1
        if done[0] and not over[0]:  # the no-op with which the next life starts
            assert "episode" not in infos[0]
            score, length = score + whole.step(np.array([0]))[1][0], length + 1
        if over[0]:
            break
    assert over[0]
    assert ends == 3
    assert infos[0]["episode"]["r"] == theirs[0]["episode"]["r"] == score > 3
    assert infos[0]["episode"]["l"] == theirs[0]["episode"]["l"] == length
    assert training.env_is_wrapped(Monitor) == [True]
    assert make_vec(GAME, training=True, monitor=False).env_is_wrapped(Monitor) == [False]


def test_life_loss_and_clipping_can_be_chosen_one_by_one() -> None:
    for life_loss, clip_rewards in ((True, False), (False, True)):
        options = {"life_loss": life_loss, "clip_rewards": clip_rewards}
        env = make_env(GAME, training=life_loss, **options)
        env.reset(seed=3)
        steps = [step for step in play(env, scoring_actions(200)) if len(step) > 1]
        assert any(step[2] for step in steps) == life_loss
        assert (max(step[1] for step in steps) == 1) == clip_rewards


def config(env_id: str) -> ResolvedConfig:
    return resolve(get_agent("der"), env_id)


@pytest.mark.parametrize("env_id", [GAME, OLD_ID])
def test_runs_train_in_the_one_and_evaluate_in_the_other(env_id: str) -> None:
    def names(vec: VecEnv) -> str:
        inner: Any = vec.unwrapped
        return str(inner.envs[0])

    with environments(config(env_id), seed=0) as vec:
        assert "LifeLoss" in names(vec)
        assert "ClipReward" in names(vec)
    evaluation = make_eval_env(env_id, 2)
    assert evaluation.num_envs == 2
    assert "LifeLoss" not in names(evaluation)
    assert "ClipReward" not in names(evaluation)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_other_families_ignore_training(env_id: str) -> None:
    one, other = make_vec(env_id, seed=2, training=True), make_vec(env_id, seed=2)
    np.testing.assert_array_equal(one.reset(), other.reset())
    inner: Any = one
    assert str(inner.envs[0]) == str(other.envs[0])  # type: ignore[attr-defined]


# --- seeds and replay ----------------------------------------------------------------------------


@pytest.mark.parametrize("played", [7, 40, 41, 143], ids=["middle", "loss", "life 2", "over"])
def test_a_seed_restores_the_emulator_whatever_came_before(played: int) -> None:
    used, fresh = make_env(GAME, training=True), make_env(GAME, training=True)
    used.reset(seed=0)
    for index, move in enumerate(actions(played)):
        end = used.step(int(move))[2]
        if end and index < played - 1:
            used.reset()
    ours, theirs = used.reset(seed=5), fresh.reset(seed=5)
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert ours[1]["episode_frame_number"] == theirs[1]["episode_frame_number"] <= 30
    assert_same(play(used, actions(150, seed=1)), play(fresh, actions(150, seed=1)))


def test_a_reset_in_the_middle_of_an_episode_begins_a_game() -> None:
    env = make_env(GAME, training=True)
    env.reset(seed=0)
    env.step(0)
    assert not env.reset()[0][:3].any()


@pytest.mark.parametrize("after", [30, 39, 40, 300])
def test_replay_brings_fresh_games_into_the_same_state(after: int) -> None:
    """As a resumed run does: a barrier within a life, then lives and games that end."""
    vec = TrainingVecEnv(make_vec(GAME, 2, seed=0, training=True))
    vec.reset()
    for move in actions(50, 2):
        vec.step(move)
    vec.barrier([11, 12])
    done = np.array([vec.step(move)[2] for move in actions(after, 2, seed=4)])
    if after == 300:
        assert done.sum(0).min() >= 3
    assert vec.seeds is not None
    again = TrainingVecEnv(make_vec(GAME, 2, seed=9, training=True))
    last = again.replay(vec.seeds, vec.actions_since_barrier(), vec.resets_since_barrier())
    for number in range(2):
        ours, theirs = (v.get_attr("unwrapped", number)[0].ale for v in (vec, again))
        np.testing.assert_array_equal(ours.getRAM(), theirs.getRAM())
        assert ours.getEpisodeFrameNumber() == theirs.getEpisodeFrameNumber()
    assert last is not None
    for move in actions(160, 2, seed=6):
        ours, theirs = vec.step(move), again.step(move)
        for part in range(3):
            np.testing.assert_array_equal(ours[part], theirs[part])


def test_games_in_processes_play_the_same() -> None:
    local = make_vec(GAME, 2, seed=1, training=True)
    remote = make_vec(GAME, 2, seed=1, training=True, processes=True)
    try:
        np.testing.assert_array_equal(local.reset(), remote.reset())
        for move in actions(60, 2):
            ours, theirs = local.step(move), remote.step(move)
            for part in range(3):
                np.testing.assert_array_equal(ours[part], theirs[part])
    finally:
        remote.close()


# --- agents --------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [GAME, OLD_ID])
def test_agents_with_a_cnn_policy_take_the_images_as_they_are(env_id: str) -> None:
    vec = make_vec(env_id, training=True)
    assert policy_for(vec.observation_space) == "CnnPolicy"
    ppo = PPO("CnnPolicy", vec, n_steps=8, batch_size=8, n_epochs=1, device="cpu").learn(8)
    assert ppo.observation_space.shape == (4, 84, 84)
    assert ppo.get_env() is vec  # no wrapper that moves the channels


def test_der_stores_single_frames_across_lost_lives() -> None:
    vec = make_vec(GAME, training=True, noop_max=0)
    model = DER("CnnPolicy", vec, learning_starts=195, buffer_size=400, device="cpu", seed=0)
    model.learn(200)
    buffer: Any = model.replay_buffer
    assert buffer.frames.shape == (400, 1, 1, 84, 84)
    assert buffer.dones[:200].sum() >= 2
    stored = np.stack([buffer.frames[row, 0, 0] for row in range(200)])
    assert stored.any(axis=(1, 2)).all()


# --- refusals ------------------------------------------------------------------------------------


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(RefusedError) as caught:
        call()
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


@pytest.mark.parametrize("remote", [False, True])
def test_a_missing_rom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool) -> None:
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    message = refusal(lambda: make_vec(GAME, processes=remote))
    assert "ROM of 'ALE/RoadRunner-v5' cannot be used" in message
    assert "road_runner.bin" in message
    assert "ALE_ROMS_DIR" in message
    (tmp_path / "road_runner.bin").write_bytes(b"not a game")
    assert "hash of road_runner.bin does not match" in refusal(lambda: make_env(GAME))
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path / "none"))
    assert "doesn't exist" in refusal(lambda: make_env(OLD_ID))


@pytest.mark.parametrize(
    ("env_id", "nearest"),
    [
        ("ALE/RoadRuner-v5", "'ALE/RoadRunner-v5'"),
        ("RoadRunnerrNoFrameskip-v4", "'RoadRunnerNoFrameskip-v4'"),
        ("ALE/RoadRunner-v6", "'ALE/RoadRunner-v5'"),
        ("ALE/RoadRunner", "'ALE/RoadRunner-v5'"),
        ("RoadRunner-v5", "'ALE/RoadRunner-v5'"),
        ("road_runner", "'ALE/RoadRunner-v5'"),
        ("RoadRunnerDeterministic-v4", "RoadRunnerNoFrameskip-v4"),
    ],
)
def test_an_unknown_game(env_id: str, nearest: str) -> None:
    assert nearest in refusal(lambda: make_env(env_id))


def test_near_names_leave_out_the_ids_that_are_refused() -> None:
    message = refusal(lambda: make_env("Pomg-v5"))
    assert "Pong-v4" not in message
    assert "Pong-v0" not in message


@pytest.mark.parametrize("name", ["RoadRunner-v4", "RoadRunner-v5", "roadrunner"])
def test_a_game_is_found_before_its_package_was_imported(name: str) -> None:
    code = f"from rlzoo.envs import make_env; make_env({name!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ALE/RoadRunner-v5" in done.stderr.splitlines()[-1] + done.stderr.splitlines()[-2]
    assert "Arcade Learning Environment" not in done.stdout + done.stderr


@pytest.mark.parametrize("env_id", ["RoadRunner-v4", "RoadRunner-v0", "RoadRunnerNoFrameskip-v0"])
def test_ids_with_other_rules(env_id: str) -> None:
    message = refusal(lambda: make_vec(env_id))
    assert "ALE/RoadRunner-v5 or RoadRunnerNoFrameskip-v4" in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"frameskip": 2}, "Use frame_skip"),
        ({"obs_type": "ram"}, "grey images"),
        ({"continuous": True}, "discrete"),
        ({"frame_stack": 0}, "frame_stack=0 is out of range"),
        ({"frame_skip": 0}, "frame_skip=0 is out of range"),
        ({"noop_max": -1}, "noop_max=-1 is out of range"),
        ({"screen_size": 0}, "screen_size=0 is out of range"),
        ({"dificulty": 1}, "dificulty"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], said: str) -> None:
    assert said in refusal(lambda: make_vec(GAME, **arguments))


def test_opencv_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    message = refusal(lambda: make_env(GAME))
    assert "'cv2'" in message
    assert 'pip install "rlzoo[atari]"' in message


def test_agents_and_games_that_do_not_fit() -> None:
    message = refusal(
        lambda: check_action_space(("Box",), make_env(GAME), "sac", {"der": ("Discrete",)})
    )
    assert "sac cannot act in an environment with the action space Discrete(18)" in message
    assert "Agents that fit: der" in message
    message = refusal(lambda: check_action_space(("Discrete",), make_env("Pendulum-v1"), "der"))
    assert "der cannot act in an environment with the action space Box" in message
    message = refusal(lambda: DER("CnnPolicy", "CartPole-v1"))
    assert "CnnPolicy cannot take the observation space" in message
    assert "Use MlpPolicy" in message
