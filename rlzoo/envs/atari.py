"""Atari games through ale-py, as the papers with 100,000 steps play them.

Every game: no sticky actions, each action repeated for four frames, the maximum over the last two
of them in grey at 84 x 84, four such frames stacked (oldest first, blank after a reset), 1 to 30
no-ops at the start, no FIRE, and a cut after 108,000 frames (30 minutes), which is a truncation.

In training only: an episode ends with a lost life, after which the game and its stack of frames go
on, and rewards are clipped to [-1, 1]. Evaluations play whole games for their score. SB3's
``Monitor`` sits below these two, so that a training logs the scores of whole games as well.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import AtariPreprocessing, ClipReward, FrameStackObservation, TimeLimit
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv, FireResetEnv
from stable_baselines3.common.monitor import Monitor

from rlzoo.core.arguments import AT_LEAST_ONE, NON_NEGATIVE, check_range
from rlzoo.envs.checks import ATARI_IDS
from rlzoo.errors import RefusedError

MAX_FRAMES = 108_000
"""Frames of a game, no-ops included: 27,000 steps."""

_INSTALL = 'Install it with: pip install "rlzoo[atari]"'
_OF_THE_PROTOCOL = {
    "frameskip": "Use frame_skip, which is 4.",
    "obs_type": "Observations are grey images.",
    "continuous": "The actions of the games are discrete.",
    "sound_obs": "Observations are grey images.",
}


class LifeLoss(EpisodicLifeEnv):
    """Ends an episode with a lost life; the next one goes on from there after a no-op.

    SB3's wrapper takes that no-op in *every* reset before the game is over, also in one with a
    seed. Here only a reset right after the loss, and without a seed, does.

    Args:
        env: A game.
    """

    _lost = False

    def step(self, action: Any) -> Any:
        """Step the game."""
        values: Any = super().step(action)
        self._lost = values[2] and not self.was_real_done
        return values

    def reset(self, **kwargs: Any) -> Any:
        """Begin the next episode; with a seed, or in the middle of one, the next game."""
        if kwargs.get("seed") is not None or not self._lost:
            self.was_real_done = True
        self._lost = False
        return super().reset(**kwargs)


def make_atari(
    env_id: str,
    spec: EnvSpec,
    training: bool = False,
    monitor: bool = False,
    *,
    frame_stack: int = 4,
    frame_skip: int = 4,
    noop_max: int = 30,
    screen_size: int = 84,
    fire: bool = False,
    life_loss: bool | None = None,
    clip_rewards: bool | None = None,
    max_episode_steps: int | None = None,
    **ale_kwargs: Any,
) -> gym.Env[Any, Any]:
    """Make a game.

    Args:
        env_id: ``"ALE/RoadRunner-v5"`` or ``"RoadRunnerNoFrameskip-v4"``: the same game here.
        spec: Its specification.
        training: End episodes with a lost life, and clip rewards.
        monitor: Record score and length of whole games with SB3's ``Monitor``.
        frame_stack: Frames of an observation, which has the shape
            [frame_stack, screen_size, screen_size] and the dtype uint8.
        frame_skip: Frames per step.
        noop_max: Most no-ops at the start of a game; 0 for none.
        screen_size: Height and width.
        fire: Press FIRE at the start of an episode, where the game has such a button.
        life_loss: Whether a lost life ends an episode; None follows ``training``.
        clip_rewards: Whether rewards are clipped; None follows ``training``.
        max_episode_steps: Steps after which a game is truncated, besides the frames.
        ale_kwargs: Arguments of ale-py's environment: ``repeat_action_probability``,
            ``full_action_space``, ``mode``, ``difficulty``, ``render_mode``, …

    Raises:
        RefusedError: If an argument is out of range or belongs to the protocol, the ROM or OpenCV
            is missing, or the id is one of a game with other rules.
    """
    sizes = {"frame_stack": frame_stack, "frame_skip": frame_skip, "screen_size": screen_size}
    check_game(env_id, spec, {**ale_kwargs, **sizes, "noop_max": noop_max})
    game: dict[str, Any] = {
        "frameskip": 1,
        "repeat_action_probability": 0.0,
        "full_action_space": False,
        "max_num_frames_per_episode": MAX_FRAMES,
        "obs_type": "grayscale",  # the wrapper reads the screen itself, and drops this
    }
    env: gym.Env[Any, Any] = gym.make(env_id, **{**game, **ale_kwargs})
    env = AtariPreprocessing(env, noop_max, frame_skip, screen_size)
    env = FrameStackObservation(env, frame_stack, padding_type="zero")
    if max_episode_steps is not None:
        env = TimeLimit(env, max_episode_steps)
    if monitor:
        env = Monitor(env)
    if training if life_loss is None else life_loss:
        env = LifeLoss(env)
    unwrapped: Any = env.unwrapped
    if fire and "FIRE" in unwrapped.get_action_meanings():
        env = FireResetEnv(env)
    if training if clip_rewards is None else clip_rewards:
        env = ClipReward(env, -1.0, 1.0)
    return env


def check_game(env_id: str, spec: EnvSpec, arguments: Mapping[str, Any]) -> None:
    """Refuse ids and arguments that do not fit the protocol, and games without a ROM.

    Args:
        env_id: Id of a game.
        spec: Its specification.
        arguments: What is given of :func:`make_atari`'s arguments.

    Raises:
        RefusedError: As :func:`make_atari`.
    """
    _check_arguments(env_id, arguments)
    for name in ("frame_stack", "frame_skip", "screen_size"):
        check_range(name, arguments.get(name), AT_LEAST_ONE)
    check_range("noop_max", arguments.get("noop_max"), NON_NEGATIVE)
    _check_installed(env_id, spec)


def _check_arguments(env_id: str, ale_kwargs: Mapping[str, Any]) -> None:
    name = env_id.rpartition(":")[2]
    if not re.fullmatch(ATARI_IDS, name):
        base = re.sub(r"^ALE/|(NoFrameskip)?-v\d+$", "", name)
        raise RefusedError(
            f"Environment {env_id!r} has random frame skips or sticky actions of its own.",
            f"Allowed: ALE/{base}-v5 or {base}NoFrameskip-v4, which are the same here.",
            "For sticky actions set repeat_action_probability=0.25 in env_kwargs.",
        )
    for argument, instead in _OF_THE_PROTOCOL.items():
        if argument in ale_kwargs:
            raise RefusedError(
                f"{argument}={ale_kwargs[argument]!r} cannot be set for {env_id!r}.", instead
            )


def _check_installed(env_id: str, spec: EnvSpec) -> None:
    """Refuse what would fail in C++ or in the middle of gymnasium, and silence ALE's banner."""
    try:
        importlib.import_module("cv2")
        ale_py, roms = importlib.import_module("ale_py"), importlib.import_module("ale_py.roms")
    except ImportError as error:
        raise RefusedError(
            f"Environment {env_id!r} needs {error.name!r}.", todo=_INSTALL
        ) from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    game, said = spec.kwargs["game"], io.StringIO()
    problem = "ale-py does not know it"
    try:
        with contextlib.redirect_stdout(said):  # it names the folder of every ROM
            found: Path | None = roms.get_rom_path(game)
    except OSError as error:  # no folder, no file, or one with another checksum
        found, problem = None, str(error).splitlines()[0]
    if found is None:
        raise RefusedError(
            f"The ROM of {env_id!r} cannot be used: {problem}.",
            "ale-py brings all ROMs with it, unless ALE_ROMS_DIR names another folder.",
            'unset ALE_ROMS_DIR, or: pip install --force-reinstall "ale-py"',
        )
