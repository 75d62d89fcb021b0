"""Cases 29 and 30: a file that would run code when it is unpickled, given to everything that loads.

Each *bait* is a file or folder with a canary in it, a pickle that makes a folder. Every loading
function and every command gets every bait; afterwards the folder must not exist, and the answer
must be one of rlzoo's own errors or a normal result.
"""

from __future__ import annotations

import ast
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from baits import (
    BAITS,
    Kitchen,
    arrays_of_objects,
    model_of_stock_sb3,
    model_with_old_weights_that_run,
    model_with_one_more_entry,
    model_with_weights_that_run,
    normalisation_pickle,
    replay_buffer_pickle,
)
from stable_baselines3.common.buffers import ReplayBuffer

import rlzoo
from rlzoo.agents.bear import BEAR
from rlzoo.cli.main import app, main
from rlzoo.config.load import load_yaml
from rlzoo.core import checkpoint, model_file
from rlzoo.core.dataset_buffer import DatasetBuffer
from rlzoo.core.safe_zip import load_model, save_model
from rlzoo.data import Transitions, d4rl, load_dataset, minari_io
from rlzoo.data.behaviours import load_behaviour
from rlzoo.data.sb3_buffers import load_replay_buffer, to_replay_buffer
from rlzoo.data.shards import ShardFolder
from rlzoo.errors import RlzooError
from rlzoo.runs.datasets import ensure_dataset, open_unchecked
from rlzoo.runs.file_info import describe
from rlzoo.runs.model_info import describe_model
from rlzoo.runs.policies import load_policy

SMALL = {"net_arch": [4], "vae_arch": [4], "n_eval_samples": 2}


@pytest.fixture(scope="module")
def data(hopper_data: Transitions) -> Transitions:
    return hopper_data


@pytest.fixture(scope="module")
def bear(data: Transitions) -> BEAR:
    return BEAR(dataset=data, device="cpu", seed=0, policy_kwargs=dict(SMALL))


@pytest.fixture(scope="module")
def model_zip(bear: BEAR, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clean") / "model.zip"
    save_model(bear, path)
    return path


@pytest.fixture(params=BAITS, ids=lambda bait: bait.__name__)
def bait(
    request: pytest.FixtureRequest, tmp_path: Path, model_zip: Path, data: Transitions
) -> tuple[Path, Path]:
    """A bait, and the folder that must not appear."""
    kitchen = Kitchen(tmp_path, model_zip, data)
    path = request.param(kitchen)
    assert not kitchen.canary.exists(), "making the bait runs nothing"
    return path, kitchen.canary


# --- functions ------------------------------------------------------------------------------------

# Every public function that reads a file which a user may have got from somewhere.
LOADERS: dict[str, Callable[[Path, BEAR], Any]] = {
    "safe_zip.load_model": lambda p, _: load_model(None, p, device="cpu"),
    "BEAR.load": lambda p, _: BEAR.load(p, device="cpu"),
    "BEAR.load with an open file": lambda p, _: BEAR.load(io.BytesIO(p.read_bytes())),
    "BEAR.set_parameters": lambda p, bear: bear.set_parameters(p, device="cpu"),
    "BEAR.load_replay_buffer": lambda p, bear: bear.load_replay_buffer(p),
    "model_file.read_description": lambda p, _: model_file.read_description(p),
    "model_file.read_parameters": lambda p, _: model_file.read_parameters(p),
    "DatasetBuffer.restore": lambda p, b: DatasetBuffer.restore(
        p, b.observation_space, b.action_space, "cpu"
    ),
    "checkpoint.load": lambda p, _: checkpoint.load(p),
    "checkpoint.latest": lambda p, _: checkpoint.latest(p.parent),
    "load_dataset": lambda p, _: load_dataset(p),
    "load_dataset with repairs": lambda p, _: load_dataset(
        p, repair_actions=True, drop_bad_episodes=True
    ),
    "d4rl.load": lambda p, _: d4rl.load(p),
    "minari_io.load_folder": lambda p, _: minari_io.load_folder(p),
    "sb3_buffers.load_replay_buffer": lambda p, _: load_replay_buffer(p),
    "datasets.open_unchecked": lambda p, _: open_unchecked(str(p)),
    "datasets.ensure_dataset": lambda p, _: ensure_dataset(p),
    "ShardFolder.read": lambda p, _: ShardFolder(p.parent, 0).read(),
    "behaviours.load_behaviour": lambda p, _: load_behaviour("Hopper-v4", "medium", p),
    "policies.load_policy": lambda p, _: load_policy(str(p), "Hopper-v4"),
    "policies.load_policy as BEAR": lambda p, _: load_policy(str(p), "Hopper-v4", agent="bear"),
    "load_yaml": lambda p, _: load_yaml(p),
    "file_info.describe": lambda p, _: describe(str(p)),
    "model_info.describe_model": lambda p, _: describe_model(str(p)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loader", LOADERS)
def test_case_29_30_no_function_runs_a_payload(
    bait: tuple[Path, Path], loader: str, bear: BEAR
) -> None:
    path, canary = bait
    if path.is_dir() and loader.endswith("open file"):
        pytest.skip("a folder cannot be opened")
    before, message = bear.replay_buffer, "loaded"
    try:
        LOADERS[loader](path, bear)
    except RlzooError as error:
        message = str(error)
    finally:
        bear.replay_buffer = before
    assert 1 <= len(message.splitlines()) <= 3
    assert not canary.exists(), f"{loader} ran what was in {path.name}"


# --- commands -------------------------------------------------------------------------------------

SHORT = ("--steps", "1", "--eval-episodes", "1", "--run-dir", "new", "--set=batch_size=8",
         "--set=n_mmd_samples=2", "--set=n_target_samples=2", "--set=warmup_steps=0",
         "--set=policy_kwargs.net_arch=[4]", "--set=policy_kwargs.vae_arch=[4]")  # fmt: skip
COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "FILE"),
    "inspect --json": ("inspect", "FILE", "--json"),
    "eval": ("eval", "FILE", "--env", "Hopper-v4", "--episodes", "1"),
    "eval --agent": ("eval", "FILE", "--env", "Hopper-v4", "--episodes", "1", "--agent", "bear"),
    "record": ("record", "FILE", "--env", "Hopper-v4", "--max-steps", "2", "--out", "x.mp4"),
    "collect --policy": (
        "collect", "--env", "Hopper-v4", "--policy", "FILE", "--size", "8", "--out", "y.hdf5",
        "--n-envs", "2",
    ),
    "dataset check": ("dataset", "check", "FILE"),
    "dataset check --repair": ("dataset", "check", "FILE", "--repair", "clip", "--drop-bad"),
    "dataset import": ("dataset", "import", "FILE", "--id", "payload/imported-v0", "--overwrite"),
    "dataset export": ("dataset", "export", "FILE", "--to", "z.hdf5"),
    "train --dataset": ("train", "bear", "--env", "Hopper-v4", "--dataset", "FILE", *SHORT),
    "train --config": ("train", "bear", "--env", "Hopper-v4", "--config", "FILE", *SHORT),
    "train --run-dir": (
        "train", "ppo", "--env", "CartPole-v1", "--run-dir", "FILE", "--steps", "1",
    ),
    "config show": ("config", "show", "bear", "--config", "FILE"),
}  # fmt: skip


if any(command.name == "resume" for command in app.registered_commands):
    COMMANDS["resume"] = ("resume", "FILE")
    COMMANDS["resume --force"] = ("resume", "FILE", "--force", "--steps", "20")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", COMMANDS)
def test_case_29_30_no_command_runs_a_payload(
    bait: tuple[Path, Path],
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path, canary = bait
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
    monkeypatch.setenv("RLZOO_HOME", str(tmp_path_factory.mktemp("home")))
    code = main([str(path) if part == "FILE" else part for part in COMMANDS[command]])
    err = capsys.readouterr().err
    assert code in (0, 2), err
    assert "Internal error" not in err
    assert "Traceback" not in err
    assert not canary.exists(), f"{command} ran what was in {path.name}"


# --- controls -------------------------------------------------------------------------------------


def kitchen(tmp_path: Path, model_zip: Path, data: Transitions) -> Kitchen:
    return Kitchen(tmp_path, model_zip, data)


def test_the_canary_works_when_it_is_unpickled(
    tmp_path: Path, model_zip: Path, data: Transitions
) -> None:
    k = kitchen(tmp_path, model_zip, data)
    pickle.loads(k.payload)
    assert k.canary.is_dir()


@pytest.mark.parametrize(
    "make", [model_with_one_more_entry, model_of_stock_sb3, replay_buffer_pickle]
)
def test_case_30_with_consent_the_payload_does_run(
    make: Callable[[Kitchen], Path],
    tmp_path: Path,
    model_zip: Path,
    data: Transitions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the tests above would prove nothing about these baits."""
    k = kitchen(tmp_path, model_zip, data)
    path = make(k)
    monkeypatch.chdir(tmp_path)
    if path.suffix == ".pkl":
        load_replay_buffer(path, trust_pickle=True)
    else:
        main(["eval", str(path), "--env", "Hopper-v4", "--trust", "--agent", "bear"])
    assert k.canary.is_dir()


def test_weights_of_the_bait_run_outside_of_the_safe_mode(
    tmp_path: Path, model_zip: Path, data: Transitions
) -> None:
    k = kitchen(tmp_path, model_zip, data)
    torch.load(io.BytesIO(k.torch_file()), weights_only=False)
    assert k.canary.is_dir()


def test_arrays_of_the_bait_run_when_pickles_are_allowed(
    tmp_path: Path, model_zip: Path, data: Transitions
) -> None:
    k = kitchen(tmp_path, model_zip, data)
    with np.load(arrays_of_objects(k), allow_pickle=True) as file:
        file["rewards"]
    assert k.canary.is_dir()


@pytest.mark.parametrize(
    "make", [model_with_one_more_entry, model_with_weights_that_run, replay_buffer_pickle,
             normalisation_pickle, arrays_of_objects, model_with_old_weights_that_run]
)  # fmt: skip
def test_inspect_names_what_the_payload_would_call(
    make: Callable[[Kitchen], Path], tmp_path: Path, model_zip: Path, data: Transitions,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = make(kitchen(tmp_path, model_zip, data))
    assert main(["inspect", str(path)]) == 0
    assert f"{os.mkdir.__module__}.mkdir" in capsys.readouterr().out


# --- case 30: replay buffers ----------------------------------------------------------------------


def test_case_30_a_replay_buffer_is_imported_with_consent_only(
    tmp_path: Path, data: Transitions, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "buffer.pkl"
    path.write_bytes(pickle.dumps(to_replay_buffer(data, device="cpu")))
    arguments = ["dataset", "import", str(path), "--id", "payload/buffer-v0", "--env", "Hopper-v4"]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "--trust" in message
    assert "rlzoo inspect" in message
    assert not minari_io.exists("payload/buffer-v0")
    with pytest.raises(RlzooError, match="pickle"):
        load_dataset(path)
    assert main([*arguments, "--trust"]) == 0
    stored = load_dataset("payload/buffer-v0")
    assert stored.env_id == "Hopper-v4"
    assert np.array_equal(stored.observations, data.observations)
    assert np.allclose(stored.actions, data.actions, atol=1e-6)
    assert load_dataset(path, trust_pickle=True).dataset_id == "buffer"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps(ReplayBuffer)[:-4], "cannot be unpickled"),
        (b"\x80\x04\x8c\x0bno_such_mod\x8c\x01x\x93.", "cannot be unpickled"),
    ],
)
def test_case_30_what_is_no_replay_buffer(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(RlzooError, match=words):
        load_dataset(path, trust_pickle=True)


# --- no other place unpickles ---------------------------------------------------------------------

# Where the library may unpickle: with the user's consent, or bytes that it has just made itself.
CONSENT = {("rlzoo.data.sb3_buffers", "load_from_pkl"), ("rlzoo.data.workers", "cloudpickle.loads")}
DANGEROUS = (
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads",
    "dill.load", "dill.loads", "joblib.load", "marshal.loads", "shelve.open", "load_from_pkl",
    "load_from_zip_file", "VecNormalize.load", "yaml.load", "yaml.full_load", "yaml.unsafe_load",
    "eval", "exec", "os.system", "torch.load", "th.load", "np.load", "numpy.load",
)  # fmt: skip
SAFE = {"torch.load": ("weights_only", True), "th.load": ("weights_only", True),
        "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False)}  # fmt: skip


def dangerous_calls(source: str, module: str) -> set[tuple[str, str]]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name not in DANGEROUS:
            continue
        option, wanted = SAFE.get(name, ("", None))
        safe = any(
            k.arg == option and isinstance(k.value, ast.Constant) and k.value.value is wanted
            for k in node.keywords
        )
        if not safe:
            found.add((module, name))
    return found


def test_only_named_places_unpickle() -> None:
    root = Path(rlzoo.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        module = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        found |= dangerous_calls(path.read_text(), module)
    assert found == CONSENT


@pytest.mark.parametrize(
    "source",
    ["np.load(f)", "np.load(f, allow_pickle=True)", "torch.load(f)", "pickle.loads(x)",
     "torch.load(f, weights_only=False)", "yaml.load(x)", "eval(x)"],
)  # fmt: skip
def test_a_planted_call_is_found(source: str) -> None:
    assert dangerous_calls(source, "m")
