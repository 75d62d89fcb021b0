"""``rlzoo inspect`` of everything that is not a model (those are in ``test_policies.py``)."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from rlzoo.core import checkpoint


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    parts = {"weights": {"w": torch.ones(2, 3)}, "note": {"text": "hello"}, "raw": b"12345"}
    return checkpoint.publish(tmp_path / "checkpoints", 1000, parts, {"class": "BEAR"})


def shown(found: tuple) -> dict[str, str]:
    """Rows by their first word."""
    code, out, err = found
    assert code == 0, err
    return {line.split()[0]: line for line in out.splitlines() if line.strip()}


def test_a_run_folder(rlzoo: Callable, bear_run: Path) -> None:
    rows = shown(rlzoo("inspect", bear_run))
    assert rows["env"].split() == ["env", "Hopper-v4"]
    assert rows["status"].split() == ["status", "finished"]
    names = [path.name for path in (bear_run / "checkpoints").iterdir()]
    assert names
    assert all(name in rows for name in names)
    assert "BEAR" in rows["class"]
    as_json = json.loads(rlzoo("inspect", bear_run, "--json").out)
    assert as_json["kind"] == "run"
    assert as_json["agent"] == "bear"
    assert as_json["model"]["kind"] == "model"


def test_a_run_that_has_not_finished(rlzoo: Callable, bear_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(bear_run, tmp_path / "run")
    (run / "model.zip").unlink()
    (run / "result.json").unlink()
    found = rlzoo("inspect", run)
    assert found.code == 0
    assert "No model.zip yet." in found.out
    (run / "model.zip").write_bytes((bear_run / "model.zip").read_bytes()[:1000])
    rows = shown(rlzoo("inspect", run))
    assert "model.zip is damaged" in rows["PROBLEM"]


def test_a_checkpoint(rlzoo: Callable, ckpt: Path) -> None:
    rows = shown(rlzoo("inspect", ckpt))
    assert rows["state"].split() == ["state", "verified"]
    assert rows["step"].split() == ["step", "1000"]
    assert rows["class"].split() == ["class", "BEAR"]
    assert rows["raw.bin"].split() == ["raw.bin", "5"]
    assert "torch" in rows["written"]


@pytest.mark.parametrize("name", ["raw.bin", "weights.safetensors", "manifest.json"])
def test_a_damaged_checkpoint(rlzoo: Callable, ckpt: Path, name: str) -> None:
    content = bytearray((ckpt / name).read_bytes())
    content[-3] ^= 1
    (ckpt / name).write_bytes(content)
    rows = shown(rlzoo("inspect", ckpt))
    assert "DAMAGED" in rows["state"]
    assert name in rows["state"]


def test_a_checkpoint_without_its_manifest(rlzoo: Callable, ckpt: Path) -> None:
    (ckpt / "manifest.json").unlink()
    assert "manifest.json cannot be read" in shown(rlzoo("inspect", ckpt))["state"]


def test_a_pickle_is_named_and_not_loaded(rlzoo: Callable, tmp_path: Path) -> None:
    for name in ("buffer.pkl", "no-suffix"):
        (tmp_path / name).write_bytes(pickle.dumps([print, np.zeros(3)]))
        found = rlzoo("inspect", name)
        assert found.code == 0
        assert "builtins.print" in found.out
        assert "--trust" in found.out


def test_arrays(rlzoo: Callable, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", plain=np.zeros((3, 2), np.float32), odd=np.array([print, 1]))
    rows = shown(rlzoo("inspect", "a.npz"))
    assert rows["plain"].split() == ["plain", "float32", "3x2"]
    assert "builtins.print" in rows["odd"]
    assert "refused" in rows["loads"]
    np.save(tmp_path / "b.npy", np.zeros(4))
    rows = shown(rlzoo("inspect", "b.npy"))
    assert rows["b"].split() == ["b", "float64", "4"]
    assert rows["loads"].endswith("without unpickling")


def test_safetensors_and_torch(rlzoo: Callable, tmp_path: Path) -> None:
    safetensors.numpy.save_file(
        {"w": np.zeros((3, 2))}, tmp_path / "s.safetensors", {"note": "\x1b[31mred"}
    )
    found = rlzoo("inspect", "s.safetensors")
    assert shown(found)["w"].split() == ["w", "F64", "3x2"]
    assert "\x1b" not in found.out, "nothing of the file reaches the terminal as a command"
    torch.save({"w": torch.zeros(2)}, tmp_path / "t.pth")
    rows = shown(rlzoo("inspect", "t.pth"))
    assert "torch._utils._rebuild_tensor_v2" in next(v for k, v in rows.items() if "data.pkl" in k)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.bin", b"", "empty"),
        ("a.txt", b"hello", "text"),
        ("a.json", b'{"a": 1}', "JSON"),
        ("a.hdf5", b"\x89HDF\r\n\x1a\n" + bytes(99), "rlzoo dataset check"),
        ("a.bin", b"\x00\x01\x02\x03", "unknown kind"),
        ("a.zip", b"PK\x03\x04" + bytes(99), "damaged"),
        ("a.zip", b"", "damaged"),
        ("a.npz", b"PK\x03\x04" + bytes(99), "damaged"),
        ("a.safetensors", b"\x10\0\0\0\0\0\0\0{broken}" + bytes(9), "damaged"),
    ],
)
def test_what_is_something_else(
    rlzoo: Callable, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    found = rlzoo("inspect", name)
    assert found.refused
    assert words in found.err


def test_folders_that_are_something_else(rlzoo: Callable, tmp_path: Path) -> None:
    assert "no run and no checkpoint" in rlzoo("inspect", tmp_path).err
    assert rlzoo("inspect", "absent").refused


@pytest.mark.parametrize(
    "text", ["[]", "null", "{", '{"agent": {"a": 1}, "versions": 3}', "[" * 5000]
)
def test_any_manifest_is_survived(
    rlzoo: Callable, bear_run: Path, tmp_path: Path, text: str
) -> None:
    run = shutil.copytree(bear_run, tmp_path / "run")
    for name in ("manifest.json", "result.json"):
        (run / name).write_text(text)
    assert rlzoo("inspect", run).code == 0
    checkpoints = [path for path in (run / "checkpoints").iterdir() if path.is_dir()]
    (checkpoints[0] / "manifest.json").write_text(text)
    assert "DAMAGED" in rlzoo("inspect", checkpoints[0]).out
