"""Checkpoints, atomic files, exact JSON and finite guards."""

import json
import math
import multiprocessing
import os
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzoo.core import checkpoint, json_tree
from rlzoo.core.finite import NonFiniteError, all_finite, check_finite
from rlzoo.core.safe_files import (
    remove_leftovers,
    replacing,
    sha256_file,
    to_json,
    write_atomic,
    write_json_atomic,
)
from rlzoo.core.seeding import get_states
from rlzoo.errors import RefusedError


def same(a, b) -> bool:
    """Equality that looks at types, dtypes and the bits of floats."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple | deque):
        limits = getattr(a, "maxlen", None) == getattr(b, "maxlen", None)
        return limits and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return np.float64(a).tobytes() == np.float64(b).tobytes() or (a != a and b != b)
    return a == b


def trained_optimizer():
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, amsgrad=True)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return net, optimizer


# --- exact JSON -----------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_subnormal=False)
    | st.text()
    | st.binary()
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.just("$"), inner)
    ),
    max_leaves=12,
)


@given(trees)
@settings(max_examples=200, deadline=None)
def test_any_tree_comes_back_exactly(tree):
    text = json_tree.dumps(json_tree.encode(tree))
    assert same(json_tree.decode(json.loads(text)), tree)


@pytest.mark.parametrize(
    "value",
    [
        np.array([[1.5, -np.inf], [np.nan, -0.0]], np.float32),
        np.array(3, np.int8),
        np.zeros((0, 4)),
        np.full((84, 84, 4), 255, np.uint8),
        np.arange(5000, dtype=np.float64).reshape(50, 100).T,
        np.array([True, False]),
        np.array([2**63 + 1], np.uint64),
        np.array([0.0, -0.0]),
        np.float32(0.1),
        np.float64(-np.inf),
        np.bool_(True),
        deque([{"r": 1.0}], maxlen=100),
        {0: "a", "0": "b"},
        {"$": "float", "value": "inf"},
        math.inf,
    ],
    ids=lambda v: f"{type(v).__name__}{getattr(v, 'shape', '')}",
)
def test_special_values_come_back_exactly(value):
    assert same(json_tree.decode(json.loads(json_tree.dumps(json_tree.encode(value)))), value)


def test_constant_arrays_are_short():
    assert len(json_tree.dumps(json_tree.encode(np.zeros((84, 84, 4))))) < 300


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array(["a"]), lambda x: x, 1j])
def test_what_needs_pickle_is_refused_with_its_place(value):
    with pytest.raises(json_tree.NotPortableError, match="optimizer/state/0"):
        json_tree.encode({"optimizer": {"state": [value]}})


@pytest.mark.parametrize(
    "tree",
    [
        {"$": "exec"},
        {"$": "array", "dtype": "float32", "shape": [10**12], "fill": 0.0},
        {"$": "array", "dtype": "object", "shape": [1], "values": [1]},
        {"$": "array", "dtype": "float32", "shape": [-1, -1], "fill": 0.0},
        {"$": "array", "dtype": "float32", "shape": [3], "base64": "AAAA"},
        {"$": "tuple"},
    ],
)
def test_forged_trees_are_refused(tree):
    with pytest.raises((ValueError, TypeError, KeyError)):
        json_tree.decode(tree)


# --- nested state ---------------------------------------------------------------------------------


def test_optimizer_state_comes_back_and_continues_equally():
    net, optimizer = trained_optimizer()
    tensors, tree = json_tree.flatten_state(optimizer.state_dict())
    assert "state/0/exp_avg" in tensors
    state = json_tree.unflatten_state(tensors, json.loads(json_tree.dumps(tree)))
    assert same(state, optimizer.state_dict())
    assert list(state["state"]) == [0, 1]  # integers, not strings
    other = torch.optim.Adam(net.parameters(), amsgrad=True)
    other.load_state_dict(state)
    assert same(other.state_dict(), optimizer.state_dict())


def test_paths_that_look_the_same_stay_apart():
    state = {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, 1: {"1": torch.tensor(2)}}
    tensors, tree = json_tree.flatten_state(state)
    assert len(tensors) == 3
    assert same(json_tree.unflatten_state(tensors, tree), state)
    assert same(json_tree.unflatten_state(*json_tree.flatten_state(torch.ones(2))), torch.ones(2))


# --- checkpoints ----------------------------------------------------------------------------------


def test_everything_comes_back_exactly(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    _, optimizer = trained_optimizer()
    parts = {
        "tensors": {
            "base": base,
            "view": base[1],
            "transposed": base.t(),
            "alias": base,
            "expanded": torch.ones(1).expand(5),
            "scalar": torch.tensor(2.5, dtype=torch.float64),
            "empty": torch.zeros(0, 3),
            "half": torch.ones(2, dtype=torch.bfloat16),
            "mask": torch.tensor([True, False]),
            "count": torch.tensor(7),
            "complex": torch.ones(2, dtype=torch.complex64),
            "parameter": torch.nn.Parameter(torch.ones(2)),
        },
        "optimizer": optimizer.state_dict(),
        "random": get_states(),
        "best": {"score": -math.inf, "at": (1, 2), 5: None},
        "blob": bytes(range(256)),
        "nothing": {},
        "empty_blob": b"",
    }
    meta = {"class": "rlzoo.agents.bear.bear:BEAR", "alpha": math.nan}
    path = checkpoint.publish(tmp_path, 12, parts, meta)
    found = checkpoint.load(path)
    expected = dict(parts, tensors={k: t.detach() for k, t in parts["tensors"].items()})
    assert {k: same(found.parts[k], v) for k, v in expected.items() if k != "tensors"} == {
        k: True for k in expected if k != "tensors"
    }
    for name, tensor in expected["tensors"].items():
        assert same(found.parts["tensors"][name], tensor), name
    assert found.step == 12
    assert found.meta["class"] == meta["class"]
    assert math.isnan(found.meta["alpha"])
    assert found.versions["torch"] == torch.__version__
    assert path == tmp_path / "ckpt-12"


def test_files_are_plain_safetensors_and_json(tmp_path):
    from safetensors.torch import load_file

    path = checkpoint.publish(tmp_path, 1, {"net": {"w": torch.ones(2)}, "note": {"a": 1}})
    assert sorted(f.name for f in path.iterdir()) == [
        "manifest.json",
        "net.safetensors",
        "note.json",
    ]
    assert torch.equal(load_file(path / "net.safetensors")["w"], torch.ones(2))
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["version"] == 1
    assert manifest["files"]["net.safetensors"]["sha256"] == sha256_file(path / "net.safetensors")
    assert b"cos\nsystem" not in b"".join(f.read_bytes() for f in path.iterdir())


def test_what_is_saved_does_not_change_afterwards(tmp_path):
    weights = {"w": torch.zeros(3)}
    path = checkpoint.publish(tmp_path, 1, {"net": weights})
    weights["w"].add_(1)
    found = checkpoint.load(path).parts["net"]["w"]
    assert torch.equal(found, torch.zeros(3))
    found.add_(1)  # and it is writable memory of its own
    assert torch.equal(checkpoint.load(path).parts["net"]["w"], torch.zeros(3))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_only_the_last_ones_and_the_protected_remain(tmp_path):
    for step in (5, 20, 100, 1000):
        checkpoint.publish(tmp_path, step, {"a": step}, keep_last=2, protect={"ckpt-5"})
    checkpoint.publish(tmp_path, 20, {"a": 20}, name="best")
    assert names(tmp_path) == ["best", "ckpt-100", "ckpt-1000", "ckpt-5"]
    found, message = checkpoint.latest(tmp_path)
    assert (found.step, message) == (1000, "")
    checkpoint.publish(tmp_path, 2000, {"a": 1}, keep_last=None)
    assert len(names(tmp_path)) == 5
    checkpoint.publish(tmp_path, 3000, {"a": 1}, keep_last=0)  # never without any
    assert names(tmp_path) == ["best", "ckpt-3000"]


def test_a_checkpoint_can_be_replaced(tmp_path):
    checkpoint.publish(tmp_path, 7, {"a": 1, "b": 2})
    checkpoint.publish(tmp_path, 7, {"a": 3})
    assert checkpoint.load(tmp_path / "ckpt-7").parts == {"a": 3}
    assert names(tmp_path) == ["ckpt-7"]


def test_a_new_line_of_checkpoints_is_not_pushed_out_by_damaged_later_ones(tmp_path):
    for step in (1, 2, 3):
        checkpoint.publish(tmp_path, step, {"a": step})
    for step in (2, 3):
        (tmp_path / f"ckpt-{step}" / "a.json").unlink()
    resumed, message = checkpoint.latest(tmp_path)
    assert resumed.step == 1
    assert "ckpt-3 is damaged" in message
    assert "Continuing from ckpt-1" in message
    checkpoint.publish(tmp_path, 2, {"a": "new"}, keep_last=1)
    assert checkpoint.latest(tmp_path)[0].parts == {"a": "new"}
    checkpoint.publish(tmp_path, 3, {"a": "newer"}, keep_last=1)
    assert checkpoint.latest(tmp_path) == (checkpoint.load(tmp_path / "ckpt-3"), "")
    assert names(tmp_path) == ["ckpt-3"]


def test_no_checkpoint_yet(tmp_path):
    assert checkpoint.latest(tmp_path) == (None, "")
    assert checkpoint.latest(tmp_path / "none") == (None, "")
    with pytest.raises(RefusedError, match="There is no checkpoint"):
        checkpoint.load(tmp_path / "ckpt-1")


def test_bad_names_are_refused(tmp_path):
    for name in ("../x", "a/b", "", ".hidden"):
        with pytest.raises(RefusedError, match="Bad name"):
            checkpoint.publish(tmp_path / "in", 1, {name: 1})
        with pytest.raises(RefusedError, match="Bad name"):
            checkpoint.publish(tmp_path / "in", 1, {"a": 1}, name=name)
    assert names(tmp_path) == []


# --- atomic files ---------------------------------------------------------------------------------


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "deep" / "größe 1.json"
    write_json_atomic(path, {"b": math.nan, "a": (np.float32(0.5), Path("x")), "c": math.inf})
    text = path.read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [0.5, "x"], "b": None, "c": None}
    assert text.index('"a"') < text.index('"b"')
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half" * (1 // 0 if file.write(b"half") else 1))
    assert path.read_text() == text
    write_atomic(path, "new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == [path.name]


def test_links_are_followed_and_devices_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    write_atomic(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "x"
    for path in (tmp_path, os.devnull):
        with pytest.raises(RefusedError, match="not a regular file"):
            write_atomic(path, "x")


def test_the_longest_name_can_be_written(tmp_path):
    write_atomic(tmp_path / ("n" * 255), "x")
    assert (tmp_path / ("n" * 255)).read_text() == "x"


def test_only_leftovers_of_dead_processes_are_removed(tmp_path):
    child = multiprocessing.get_context("spawn").Process(target=int)
    child.start()
    child.join()
    dead = child.pid
    (tmp_path / f"ckpt-1.tmp-{dead}-0").mkdir()
    (tmp_path / f"ckpt-1.tmp-{dead}-0" / "part").write_text("x")
    (tmp_path / f"model.zip.tmp-{dead}-3").write_text("x")
    (tmp_path / f"ckpt-2.old-{dead}").mkdir()
    (tmp_path / f"ckpt-3.old-{dead}").mkdir()
    (tmp_path / "ckpt-3").mkdir()
    (tmp_path / f"ckpt-4.tmp-{os.getppid()}-0").mkdir()
    (tmp_path / "notes.tmp").write_text("mine")
    assert len(remove_leftovers(tmp_path)) == 4
    assert names(tmp_path) == ["ckpt-2", "ckpt-3", f"ckpt-4.tmp-{os.getppid()}-0", "notes.tmp"]


def test_json_is_the_same_for_equal_objects():
    assert to_json({"a": 1, "b": {2, 1}}) == to_json({"b": {1, 2}, "a": 1})
    with pytest.raises(TypeError):
        to_json(object())


# --- finite guards --------------------------------------------------------------------------------


def test_finite_tensors_pass():
    check_finite({}, 0)
    check_finite({"a": torch.ones(3), "empty": torch.zeros(0), "int": torch.tensor(1)}, 0)
    check_finite({"big": torch.tensor([3.4e38, -3.4e38])}, 0)  # a sum would overflow
    assert all_finite(torch.nn.BatchNorm1d(3))


def test_the_message_names_step_tensors_and_statistics():
    bad = torch.tensor([1.0, math.nan, -3.0, math.inf])
    with pytest.raises(NonFiniteError) as caught:
        check_finite({"good": torch.ones(2), "critic.weight": bad, "n": torch.tensor(1)}, 42)
    error = caught.value
    assert (error.step, error.names, error.exit_code) == (42, ["critic.weight"], 1)
    assert str(error).splitlines()[:2] == [
        "Step 42: 1 of 2 tensors are not finite.",
        "critic.weight: shape (4,), 1 NaN, 1 infinite, others in [-3, 1]",
    ]
    assert len(str(error).splitlines()) == 3


def test_buffers_count_and_long_lists_are_cut():
    module = torch.nn.BatchNorm1d(2)
    module.running_mean[0] = math.inf
    assert not all_finite(module)
    with pytest.raises(NonFiniteError, match="and 7 more") as caught:
        check_finite({f"t{i}": torch.tensor(math.nan) for i in range(10)}, 0)
    assert len(caught.value.names) == 10
