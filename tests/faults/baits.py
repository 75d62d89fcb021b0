"""Files and folders with a canary in them: a pickle that makes a folder when it is loaded."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlzoo.core import checkpoint, json_tree
from rlzoo.data import Transitions, d4rl, minari_io
from rlzoo.data.sb3_buffers import to_replay_buffer


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


class Kitchen:
    """Makes baits."""

    def __init__(self, folder: Path, model: Path, data: Transitions) -> None:
        self.folder, self.model, self.data = folder, model, data
        self.canary = folder / "canary"
        self.payload = pickle.dumps(Canary(self.canary))

    def rewritten(
        self, change: Callable[[str, bytes], bytes | None], name: str = "bait.zip"
    ) -> Path:
        """The clean model with other members; None leaves one out."""
        path = self.folder / name
        with zipfile.ZipFile(self.model) as old, zipfile.ZipFile(path, "w") as new:
            for member in old.namelist():
                content = change(member, old.read(member))
                if content is not None:
                    new.writestr(member, content)
        return path

    def entries(self, data: bytes, names: str) -> bytes:
        """SB3's data with the canary: in a new entry, or in all that are pickles."""
        tree = json.loads(data)
        entry = {":type:": "x", ":serialized:": base64.b64encode(self.payload).decode()}
        if names == "all":
            tree |= {k: entry for k, v in tree.items() if isinstance(v, dict)}
        tree["surprise"] = entry
        return json.dumps(tree).encode()

    def torch_file(self) -> bytes:
        buffer = io.BytesIO()
        torch.save({"weight": Canary(self.canary)}, buffer)
        return buffer.getvalue()


def model_with_one_more_entry(k: Kitchen) -> Path:
    return k.rewritten(lambda n, c: k.entries(c, "new") if n == "data" else c)


def model_with_all_entries_replaced(k: Kitchen) -> Path:
    return k.rewritten(lambda n, c: k.entries(c, "all") if n == "data" else c)


def model_of_stock_sb3(k: Kitchen) -> Path:
    def change(name: str, content: bytes) -> bytes | None:
        if name == "rlzoo.json":
            return None
        return k.entries(content, "all") if name == "data" else content

    return k.rewritten(change)


def model_with_weights_that_run(k: Kitchen) -> Path:
    return k.rewritten(lambda n, c: k.torch_file() if n == "policy.pth" else c)


def model_with_old_weights_that_run(k: Kitchen) -> Path:
    return k.rewritten(lambda n, c: k.payload if n.endswith(".pth") else c)


def model_with_variables_that_run(k: Kitchen) -> Path:
    return k.rewritten(lambda n, c: k.torch_file() if n == "pytorch_variables.pth" else c)


def model_that_names_a_function(k: Kitchen) -> Path:
    def change(name: str, content: bytes) -> bytes:
        if name != "rlzoo.json":
            return content
        tree = json.loads(content)
        tree["class"] = "os:mkdir"
        tree["attributes"]["policy_class"] = {"$": "class", "path": "os:mkdir"}
        tree["attributes"]["gamma"] = {"$": "mkdir", "path": str(k.canary)}
        return json.dumps(tree).encode()

    return k.rewritten(change)


def replay_buffer_pickle(k: Kitchen) -> Path:
    buffer = to_replay_buffer(k.data, device="cpu")
    buffer.surprise = Canary(k.canary)  # type: ignore[attr-defined]
    path = k.folder / "replay.pkl"
    path.write_bytes(pickle.dumps(buffer))
    return path


def normalisation_pickle(k: Kitchen) -> Path:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    env.surprise = Canary(k.canary)  # type: ignore[attr-defined]
    path = k.folder / "vecnormalize.pkl"
    env.save(str(path))
    return path


def pickle_of_protocol_0(k: Kitchen) -> Path:
    path = k.folder / "text.pkl"
    path.write_bytes(pickle.dumps(Canary(k.canary), 0))
    return path


def pickle_that_is_called_a_model(k: Kitchen) -> Path:
    path = k.folder / "model.zip"
    path.write_bytes(k.payload)
    return path


def pickle_that_is_called_a_data_set(k: Kitchen) -> Path:
    path = k.folder / "set.hdf5"
    path.write_bytes(k.payload)
    return path


def arrays_of_objects(k: Kitchen) -> Path:
    names = ("observations", "actions", "rewards", "dones", "next_observations")
    more = ("slots", "numbers", "cuts", "lengths")
    path = k.folder / "g0000-x.npz"
    np.savez(path, **{n: np.array([Canary(k.canary)], object) for n in (*names, *more)})
    return path


def yaml_with_a_tag(k: Kitchen) -> Path:
    path = k.folder / "config.yaml"
    path.write_text(f"all:\n  agent:\n    gamma: !!python/object/apply:os.mkdir ['{k.canary}']\n")
    return path


def checkpoint_with_parts_that_run(k: Kitchen) -> Path:
    """The sums of the manifest fit: its author computed them again."""
    parts = {"parameters": {"w": torch.ones(2)}, "state": {"a": [1, torch.ones(1)]}, "raw": b"x"}
    path = checkpoint.publish(k.folder / "checkpoints", 10, parts)
    manifest = json.loads((path / "manifest.json").read_text())
    tree = {"$": "class", "path": "os:mkdir", "args": [str(k.canary)]}
    contents = {name: k.payload for name in manifest["files"]}
    contents["state.json"] = json.dumps(tree).encode()
    for name, content in contents.items():
        (path / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"][name] = {"size": len(content), "sha256": digest}
    manifest["meta"] = tree
    del manifest["sha256"]
    manifest["sha256"] = hashlib.sha256(json_tree.dumps(manifest).encode()).hexdigest()
    (path / "manifest.json").write_text(json_tree.dumps(manifest))
    return path


def minari_set(k: Kitchen) -> Path:
    """A data set with pickles in attributes, and an environment that is a function to call."""
    minari_io.save(k.data, "payload/set-v0", overwrite=True)
    path = k.folder / "set-v0"
    os.rename(Path(os.environ["MINARI_DATASETS_PATH"]) / "payload" / "set-v0", path)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file.attrs["surprise"] = np.void(k.payload)
        file["episode_0"].attrs["seed"] = np.void(k.payload)
        file["episode_0"].attrs["id"] = np.void(k.payload)
    metadata = json.loads((path / "data" / "metadata.json").read_text())
    spec = json.loads(metadata.get("env_spec") or gym.spec("Hopper-v4").to_json())
    spec |= {"entry_point": "os:mkdir", "kwargs": {"path": str(k.canary)}}
    metadata["env_spec"] = json.dumps(spec)
    metadata["surprise"] = {"py/reduce": ["os.mkdir", [str(k.canary)]]}
    (path / "data" / "metadata.json").write_text(json.dumps(metadata))
    return path


def minari_set_with_spaces_that_run(k: Kitchen) -> Path:
    path = minari_set(k)
    text = json.loads((path / "data" / "metadata.json").read_text())
    text["observation_space"] = json.dumps({"type": "os.mkdir", "path": str(k.canary)})
    (path / "data" / "metadata.json").write_text(json.dumps(text))
    return path


def d4rl_file(k: Kitchen) -> Path:
    path = k.folder / "hopper.hdf5"
    d4rl.save(k.data, path)
    with h5py.File(path, "a") as file:
        del file["metadata"]
        file["metadata/rlzoo"] = np.void(k.payload)
        file["surprise"] = np.void(k.payload)
        file.attrs["surprise"] = np.void(k.payload)
    return path


def d4rl_file_with_columns_that_run(k: Kitchen) -> Path:
    path = k.folder / "hopper.hdf5"
    d4rl.save(k.data, path)
    with h5py.File(path, "a") as file:
        for name in ("rewards", "observations"):
            del file[name]
            file[name] = np.array([k.payload.ljust(99, b".")] * len(k.data), "V99")
    return path


def minari_set_with_columns_that_run(k: Kitchen) -> Path:
    path = minari_set(k)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        group = file["episode_0"]
        group.attrs["seed"] = 1
        rows = len(group["rewards"])
        del group["rewards"]
        group["rewards"] = np.array([k.payload.ljust(99, b".")] * rows, "V99")
    return path


def run_folder(k: Kitchen) -> Path:
    """Everything in it is bait."""
    path = k.folder / "run"
    path.mkdir()
    os.rename(model_with_all_entries_replaced(k), path / "model.zip")
    os.rename(yaml_with_a_tag(k), path / "config.yaml")
    os.rename(checkpoint_with_parts_that_run(k).parent, path / "checkpoints")
    surprise = {"py/reduce": ["os.mkdir", [str(k.canary)]], "$": "class", "path": "os:mkdir"}
    manifest = {"env": "Hopper-v4", "agent": "bear", "status": "interrupted", "seed": surprise}
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "result.json").write_bytes(pickle.dumps(Canary(k.canary), 0))
    (path / "vecnormalize.pkl").write_bytes(k.payload)
    return path


def behaviour_folder(k: Kitchen) -> Path:
    path = k.folder / "behaviours"
    path.mkdir()
    card = {"format": 1, "kind": "tanh", "env_id": "Hopper-v4", "level": "medium"}
    card |= {"weights_sha256": hashlib.sha256(k.payload).hexdigest(), "activation": "os:mkdir"}
    box = {"low": [0.0], "high": [1.0], "dtype": "float32"}
    card |= {"observation_space": box, "action_space": box}
    (path / "hopper-medium.json").write_text(json.dumps(card))
    (path / "hopper-medium.safetensors").write_bytes(k.payload)
    return path


BAITS = (
    model_with_one_more_entry, model_with_all_entries_replaced, model_of_stock_sb3,
    model_with_weights_that_run, model_with_old_weights_that_run, model_with_variables_that_run,
    model_that_names_a_function, replay_buffer_pickle, normalisation_pickle, pickle_of_protocol_0,
    pickle_that_is_called_a_model, pickle_that_is_called_a_data_set, arrays_of_objects,
    yaml_with_a_tag, checkpoint_with_parts_that_run, minari_set, minari_set_with_spaces_that_run,
    minari_set_with_columns_that_run, d4rl_file_with_columns_that_run,
    d4rl_file, run_folder, behaviour_folder,
)  # fmt: skip
