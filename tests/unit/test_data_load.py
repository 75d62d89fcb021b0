import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from data_samples import make_transitions

import rlzoo.data
from rlzoo.data import d4rl, load_dataset, minari_io
from rlzoo.data.sb3_buffers import to_replay_buffer
from rlzoo.errors import RefusedError


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    return tmp_path / "store"


def test_every_source_gives_the_same_bytes(tmp_path, store):
    t = make_transitions(env_id="Hopper-v4")
    minari_io.save(t, "rlzoo/hopper/tiny-v0")
    d4rl.save(t, tmp_path / "tiny set ü.hdf5")
    sources = [
        t,
        "rlzoo/hopper/tiny-v0",
        store / "rlzoo/hopper/tiny-v0",
        str(store / "rlzoo/hopper/tiny-v0/data"),
        tmp_path / "tiny set ü.hdf5",
        str(tmp_path / "tiny set ü.hdf5"),
        to_replay_buffer(t, device="cpu"),
    ]
    assert {load_dataset(source).fingerprint for source in sources} == {t.fingerprint}


def test_chain_of_formats_loses_nothing(tmp_path):
    t = make_transitions(lengths=(6, 2, 9), cut_episodes=[1], recipe={"seed": 4})
    minari_io.save(t, "chain/one-v0")
    d4rl.save(load_dataset("chain/one-v0"), tmp_path / "two.hdf5")
    minari_io.save(load_dataset(tmp_path / "two.hdf5"), "chain/three-v0")
    end = load_dataset("chain/three-v0")
    assert end.fingerprint == t.fingerprint
    assert end.metadata == {**t.metadata, "id": "chain/three-v0"}


def test_repairs_on_the_way_in(tmp_path):
    t = make_transitions(env_id="Hopper-v4")
    path = d4rl.save(t, tmp_path / "set.hdf5")
    import h5py

    with h5py.File(path, "r+") as file:
        file["actions"][8, 0] = 4.0
        file["rewards"][2] = np.nan
    with pytest.raises(RefusedError, match="NaN"):
        load_dataset(path)
    with pytest.raises(RefusedError, match="outside of their bounds"):
        load_dataset(path, drop_bad_episodes=True)
    fixed = load_dataset(path, drop_bad_episodes=True, repair_actions=True)
    assert fixed.n_episodes == 2
    assert fixed.actions[3, 0] == 1
    assert len(fixed.metadata["notes"]) == 2


def test_missing_sources_are_refused_with_advice(tmp_path):
    for source, words in [
        ("rlzoo/hopper/medium-v0", "rlzoo collect rlzoo/hopper/medium-v0"),
        ("mujoco/hopper/expert-v0", "minari download mujoco/hopper/expert-v0"),
        (tmp_path / "gone.hdf5", "does not exist"),
        ("no such thing", "rlzoo dataset list"),
        (tmp_path, "holds no Minari data set"),
    ]:
        with pytest.raises(RefusedError) as caught:
            load_dataset(source)
        assert words in str(caught.value)
        assert len(str(caught.value).splitlines()) <= 3


def test_options_that_do_nothing_are_refused():
    t = make_transitions()
    minari_io.save(t, "test/set-v0")
    for source in (t, "test/set-v0"):
        with pytest.raises(RefusedError, match="time_limit cannot be set"):
            load_dataset(source, time_limit=5)


def test_sizes_are_checked_on_request():
    t = make_transitions()
    with pytest.raises(RefusedError, match="fewer than one batch"):
        load_dataset(t, batch_size=16)
    with pytest.raises(RefusedError, match="fewer than the horizon"):
        load_dataset(t, horizon=8)


def test_invalid_transitions_are_refused():
    t = make_transitions()
    with pytest.raises(RefusedError, match="NaN or Inf"):
        load_dataset(replace(t, rewards=t.rewards * np.nan))


def test_public_names_and_cheap_import():
    assert rlzoo.data.validate(make_transitions()).n_episodes == 3
    code = (
        "import sys, rlzoo.data.validate\n"
        "from rlzoo.data import Transitions, validate\n"
        "assert callable(validate)\n"
        "assert not {'torch', 'stable_baselines3', 'minari', 'h5py'} & set(sys.modules)\n"
        "from rlzoo.data import load_dataset\n"
        "assert callable(load_dataset)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rlzoo.data.nothing
