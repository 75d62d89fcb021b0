"""Faults of runs that are stopped, killed, changed or damaged, and then continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from safetensors.numpy import load_file
from stable_baselines3.common.base_class import BaseAlgorithm

import rlzoo
from rlzoo.cli.main import main
from rlzoo.core import checkpoint
from rlzoo.core.checkpoint import NotPublishedError
from rlzoo.core.finite import NonFiniteError
from rlzoo.envs.training import EnvFailedError
from rlzoo.errors import FailedError, RefusedError
from rlzoo.runs import callbacks, checkpoints
from rlzoo.runs.resume import ResumeRequest, resume
from rlzoo.runs.train import TrainRequest, train

TD3 = (
    "learning_starts=30", "batch_size=16", "buffer_size=200", "policy_kwargs.net_arch=[8, 8]",
    "run.eval_freq=100", "run.eval_episodes=1", "run.checkpoint_freq=80",
)  # fmt: skip
STEPS = 400
ENVIRON = os.environ | {
    "PYTHONPATH": str(Path(rlzoo.__file__).parents[1]),
    "OMP_NUM_THREADS": "1",
}


class Listener:
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    def start(self, label: str, total: int, unit: str) -> None:
        pass

    def update(self, done: int, note: str = "") -> None:
        pass

    def stop(self) -> None:
        pass


def request(run: Path, steps: int = STEPS, *overrides: str, env_id: str = "Pendulum-v1") -> Any:
    return TrainRequest(
        "td3", env_id, steps=steps, run_dir=run, device="cpu", overrides=(*TD3, *overrides),
        threads=1,
    )  # fmt: skip


def status(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return found


def steps_of(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("ckpt-*"))


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """The final weights and optimiser states of a run."""
    found, _ = checkpoint.latest(run / "checkpoints")
    assert found is not None
    flat: dict[str, torch.Tensor] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            flat[path] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{path}/{key}", inner)

    walk("", found.parts["parameters"])
    return flat


def assert_same_tensors(a: Path, b: Path) -> None:
    left, right = tensors(a), tensors(b)
    assert left
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(request(run))
    return run


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A run that ended without a word at step 250; its newest checkpoint has 240."""

    class KilledError(BaseException):
        pass

    def _on_step(self: Any) -> bool:
        if self.num_timesteps >= 250:
            raise KilledError
        return True

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.ProgressCallback, "_on_step", _on_step)
        with pytest.raises(KilledError):
            train(request(tmp_path / "run"))
    assert steps_of(tmp_path / "run") == [80, 160, 240]
    return tmp_path / "run"


# --- 17, 18: disk ---------------------------------------------------------------------------------


def failing(times: int, publish: Callable[..., Any]) -> Callable[..., Any]:
    left = [times]

    def attempt(*args: Any, **kwargs: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise NotPublishedError("Checkpoint could not be written: No space left on device.")
        return publish(*args, **kwargs)

    return attempt


def test_case_17_training_goes_on_and_the_next_checkpoint_is_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, whole: Path
) -> None:
    listener = Listener()
    publish = failing(checkpoints.MAX_FAILURES - 1, checkpoint.publish)
    monkeypatch.setattr(checkpoint, "publish", publish)
    train(request(tmp_path / "run"), listener)
    assert [line for line in listener.lines if "No space left" in line]
    assert steps_of(tmp_path / "run") == [240, 320, 400]
    assert_same_tensors(tmp_path / "run", whole)


def test_case_17_it_fails_when_no_checkpoint_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checkpoint, "publish", failing(99, checkpoint.publish))
    with pytest.raises(FailedError, match="3 checkpoints in a row failed"):
        train(request(tmp_path / "run"))


def test_case_17_and_18_a_real_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """No file may grow beyond 20 kB: neither weights nor (later) the log can be written."""
    code = (
        "import resource, signal, sys; from rlzoo.cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    options = [f"--set={value}" for value in TD3]
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "td3", "--env", "Pendulum-v1", "--steps", "2000",
         "--run-dir", "run", *options],
        cwd=tmp_path, env=ENVIRON, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert "3 checkpoints in a row failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert steps_of(tmp_path / "run") == []


# --- 19, 20, 21: signals --------------------------------------------------------------------------


def start(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "rlzoo.cli.main", "train", "td3", "--env", "Pendulum-v1"]
    arguments += ["--run-dir", "run", *(f"--set={value}" for value in TD3), *options]
    return subprocess.Popen(
        arguments, cwd=tmp_path, env=ENVIRON, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, preexec_fn=_default_signals,
    )  # fmt: skip


def _default_signals() -> None:
    # A shell starts background jobs with Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path) -> None:
    deadline = time.monotonic() + 240
    while not list((run / "checkpoints").glob("ckpt-*/manifest.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_case_20_a_signal_leaves_a_checkpoint(tmp_path: Path, number: int, code: int) -> None:
    process = start(tmp_path, "--steps", "1000000")
    run = tmp_path / "run"
    wait_for_checkpoint(process, run)
    process.send_signal(number)
    _, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    assert "rlzoo resume run" in err
    assert "Traceback" not in err
    found, note = checkpoint.latest(run / "checkpoints")
    assert found is not None
    assert note == ""
    assert status(run)["status"] == "stopped"
    assert not (run / "run.lock").exists()


def test_case_20_the_second_signal_leaves_at_once(tmp_path: Path) -> None:
    # One update of this lasts for minutes, so that the first signal cannot be obeyed.
    process = start(tmp_path, "--set", "gradient_steps=10_000_000", "--steps", "1000000")
    deadline = time.monotonic() + 240
    while not (tmp_path / "run" / "manifest.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(2)
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=2)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "once more to leave at once" in err


def test_case_21_killed_by_the_system_and_continued(tmp_path: Path, whole: Path) -> None:
    process = start(tmp_path, "--steps", str(STEPS), "--device", "cpu", "--threads", "1")
    wait_for_checkpoint(process, tmp_path / "run")
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "model.zip").exists()
    done = subprocess.run(
        [sys.executable, "-m", "rlzoo.cli.main", "train", "--resume", "run"],
        cwd=tmp_path, env=ENVIRON, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Bit for bit" in done.stderr
    assert_same_tensors(tmp_path / "run", whole)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["total_timesteps"] == STEPS


# --- 22: changes ----------------------------------------------------------------------------------


def test_case_22_changed_settings_are_listed_and_refused(stopped: Path) -> None:
    with pytest.raises(RefusedError) as error:
        resume(ResumeRequest(stopped, overrides=("gamma=0.9",)))
    assert "agent.gamma: 0.98 -> 0.9" in error.value.allowed
    assert "--force" in error.value.todo
    assert len(str(error.value).splitlines()) == 3


def test_case_22_a_configuration_that_was_edited_is_noticed(stopped: Path) -> None:
    path = stopped / "config.yaml"
    text = path.read_text()
    assert "batch_size: 16 " in text
    path.write_text(text.replace("batch_size: 16 ", "batch_size: 8 "))
    with pytest.raises(RefusedError, match=r"agent\.batch_size: 16 -> 8"):
        resume(ResumeRequest(stopped))


@pytest.mark.parametrize("library", ["gymnasium", "torch", "rlzoo", "mujoco"])
def test_case_22_other_versions(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    versions = {**checkpoint.library_versions(), library: "0.0.1"}
    monkeypatch.setattr("rlzoo.runs.resume.library_versions", lambda: versions)
    with pytest.raises(RefusedError, match=rf"{library}: \S+ -> 0.0.1"):
        resume(ResumeRequest(stopped))


def test_case_22_other_code_of_the_agent(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlzoo.runs.training.code_digest", lambda spec: "0123456789abcdef")
    with pytest.raises(RefusedError, match=r"code: '[0-9a-f]{16}' -> '0123456789abcdef'"):
        resume(ResumeRequest(stopped))


def test_case_22_force_goes_on_and_is_recorded(stopped: Path) -> None:
    resume(ResumeRequest(stopped, overrides=("gamma=0.9",), force=True, command="rlzoo resume x"))
    (entry,) = status(stopped)["resumed"]
    assert entry["step"] == 240
    assert entry["forced"] == ["agent.gamma: 0.98 -> 0.9"]
    assert entry["command"] == "rlzoo resume x"
    found, _ = checkpoint.latest(stopped / "checkpoints")
    assert found is not None
    assert found.meta["settings"]["agent.gamma"] == 0.9


def test_case_22_another_agent_is_refused(stopped: Path) -> None:
    with pytest.raises(RefusedError, match="is a run of td3, not of sac"):
        resume(ResumeRequest(stopped, agent="sac"))


def test_case_22_options_of_another_run_are_refused(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--resume", str(stopped), "--env", "Hopper-v4", "--seed", "1"]) == 2
    assert "--env, --seed cannot be given with --resume" in capsys.readouterr().err


# --- 23, 25, 26: damage ---------------------------------------------------------------------------


def test_case_23_the_one_before_is_taken_if_the_newest_is_damaged(
    stopped: Path, whole: Path
) -> None:
    part = stopped / "checkpoints" / "ckpt-240" / "parameters.safetensors"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    listener = Listener()
    resume(ResumeRequest(stopped), listener)
    assert "ckpt-240 is damaged: part parameters.safetensors" in listener.lines[0]
    assert "Continuing from ckpt-160." in listener.lines[0]
    assert_same_tensors(stopped, whole)


@pytest.mark.parametrize("name", ["manifest.json", "config.yaml"])
@pytest.mark.parametrize("text", ["", "{", "[]", "agent: td3\nenv: [", None])
def test_case_25_damaged_files_of_the_run(stopped: Path, name: str, text: str | None) -> None:
    if text is None:
        (stopped / name).unlink()
    else:
        (stopped / name).write_text(text)
    with pytest.raises(RefusedError):
        resume(ResumeRequest(stopped))
    assert not (stopped / "run.lock").exists()


def test_case_14_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"has no manifest\.json"):
        resume(ResumeRequest(tmp_path))


def test_a_run_without_a_checkpoint_begins_again(stopped: Path, whole: Path) -> None:
    for path in (stopped / "checkpoints").iterdir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    listener = Listener()
    resume(ResumeRequest(stopped), listener)
    assert "its beginning: there is no checkpoint" in " ".join(listener.lines)
    assert_same_tensors(stopped, whole)


# --- 24: finished ---------------------------------------------------------------------------------


def test_case_24_a_finished_run_says_so(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "result.json").read_bytes()
    assert main(["resume", str(whole)]) == 0
    assert "has already finished its 400 environment steps" in capsys.readouterr().err
    assert (whole / "result.json").read_bytes() == before
    assert main(["resume", str(whole), "--steps", "300"]) == 0


def test_case_24_more_steps_continue_as_if_they_had_been_there(tmp_path: Path) -> None:
    train(request(tmp_path / "short", 200))
    resume(ResumeRequest(tmp_path / "short", steps=STEPS))
    train(request(tmp_path / "long", STEPS))
    assert_same_tensors(tmp_path / "short", tmp_path / "long")
    a, b = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("short", "long"))
    assert a["curve"] == b["curve"]
    assert a["total_timesteps"] == STEPS


# --- 37, 38: bad numbers, failing environments ----------------------------------------------------


def test_case_37_bad_weights_end_the_run_and_are_kept_aside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def _on_step(self: Any) -> bool:
        if self.num_timesteps == 200:
            with torch.no_grad():
                next(iter(self.model.actor.parameters())).fill_(float("nan"))
        return True

    monkeypatch.setattr(callbacks.ProgressCallback, "_on_step", _on_step)
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError) as error:
        train(request(run))
    assert "nan-" in error.value.todo
    assert len(list(run.glob("nan-*"))) == 1
    assert steps_of(run) == [80, 160]
    assert status(run)["status"] == "failed"


def test_case_37_an_error_deep_in_the_library_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PPO with weights of NaN fails in torch's check of a distribution."""

    def _on_step(self: Any) -> bool:
        if self.num_timesteps == 40:
            with torch.no_grad():
                self.model.policy.action_net.weight.fill_(float("nan"))
        return True

    monkeypatch.setattr(callbacks.ProgressCallback, "_on_step", _on_step)
    overrides = ("n_steps=16", "batch_size=16", "n_envs=1")
    with pytest.raises(NonFiniteError, match=r"policy/action_net\.weight"):
        train(
            TrainRequest(
                "ppo", "CartPole-v1", steps=100, run_dir=tmp_path / "run", overrides=overrides
            )
        )


class Moody(PendulumEnv):
    """Raises in its 150th step, once."""

    steps = 0

    def step(self, action: Any) -> Any:
        Moody.steps += 1
        if Moody.steps == 150:
            raise RuntimeError("the motor broke")
        return super().step(action)


class Poisonous(PendulumEnv):
    """Gives a reward of NaN in its 150th step."""

    steps = 0

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        Poisonous.steps += 1
        return observation, float("nan") if Poisonous.steps == 150 else reward, *rest


@pytest.fixture
def own_envs() -> Iterator[None]:
    for cls in (Moody, Poisonous):
        cls.steps = 0
        gym.register(f"{cls.__name__}-v0", cls, max_episode_steps=200)
    yield
    for cls in (Moody, Poisonous):
        del gym.registry[f"{cls.__name__}-v0"]


@pytest.mark.usefixtures("own_envs")
def test_case_38_a_failing_environment_costs_nothing_that_was_learned(tmp_path: Path) -> None:
    run, no_evaluation = tmp_path / "run", "run.eval_freq=100000"
    with pytest.raises(EnvFailedError) as error:
        train(request(run, STEPS, no_evaluation, env_id="Moody-v0"))
    message = str(error.value)
    assert "the motor broke" in message
    assert "last action" in message
    assert "rlzoo resume" in message
    assert status(run)["status"] == "failed"
    kept = steps_of(run)[-1]
    assert 100 < kept < 150
    found = checkpoint.load(run / "checkpoints" / f"ckpt-{kept}")
    last = load_file(found.files[found.parts["replay"]["chunks"][-1]["name"]])
    # Returns over several steps must not look beyond: what follows is another episode.
    assert last["timeouts"][-1].all()
    result = resume(ResumeRequest(run))
    assert result is not None
    assert result.record["total_timesteps"] == STEPS


@pytest.mark.usefixtures("own_envs")
def test_case_37_a_reward_that_is_not_a_number_names_its_environment(tmp_path: Path) -> None:
    run, no_evaluation = tmp_path / "run", "run.eval_freq=100000"
    with pytest.raises(EnvFailedError, match="reward"):
        train(request(run, STEPS, no_evaluation, env_id="Poisonous-v0"))
    found, _ = checkpoint.latest(run / "checkpoints")
    assert found is not None
    assert np.isfinite(found.parts["parameters"]["policy"]["actor.mu.0.weight"].numpy()).all()


# --- 27: what a checkpoint is for -----------------------------------------------------------------


def test_the_best_model_is_kept_and_loads(whole: Path) -> None:
    from rlzoo.core.safe_zip import load_model

    record = json.loads((whole / "result.json").read_text())
    model: BaseAlgorithm = load_model(None, whole / "best_model.zip")
    assert model.num_timesteps == record["best"]["step"]
