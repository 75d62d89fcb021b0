"""Faults at the level of rlzoo.core, by their number in the list of forty cases."""

import base64
import contextlib
import io
import json
import math
import multiprocessing
import os
import pickle
import random
import resource
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import TQC
from stable_baselines3 import DQN, PPO, SAC, TD3

import rlzoo
from rlzoo.core import checkpoint, json_tree, zip_checks
from rlzoo.core.checkpoint import DamagedError, NotPublishedError
from rlzoo.core.device import resolve_device
from rlzoo.core.finite import NonFiniteError
from rlzoo.core.model_file import read_description
from rlzoo.core.safe_files import remove_leftovers
from rlzoo.core.safe_zip import SafeSaveMixin, load_model, save_model
from rlzoo.core.seeding import check_seed
from rlzoo.errors import RefusedError, RlzooError


class SafeTD3(SafeSaveMixin, TD3):
    """Stands for an agent of rlzoo."""


def tiny(cls=SafeTD3, env="Pendulum-v1"):
    torch.manual_seed(0)
    return cls("MlpPolicy", env, policy_kwargs={"net_arch": [3]}, device="cpu")


def weights(model):
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def model_zip(tmp_path):
    path = tmp_path / "model.zip"
    save_model(tiny(), path)
    return path


def short_message(error):
    lines = str(error).splitlines()
    return 1 <= len(lines) <= 3 and all(lines)


# --- 12, 13: devices and seeds --------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda:77", "cuda:-1", "gpu", "mps:9", "", "cpu:x"])
def test_case_12_device_that_is_not_there(device):
    with pytest.raises(RefusedError, match="Available: cpu") as caught:
        resolve_device(device)
    assert "--device auto" in str(caught.value)
    assert short_message(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_case_12_cuda_without_cuda():
    with pytest.raises(RefusedError, match="'cuda' is not available"):
        resolve_device(torch.device("cuda"))
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    "seed", [-1, 2**32, 10**30, 1.0, "1", None, True, np.bool_(True), np.int64(-5), math.nan]
)
def test_case_13_bad_seed(seed):
    with pytest.raises(RefusedError, match=r"seed=.*\nAllowed: 0 to 4294967295"):
        check_seed(seed)


# --- 17: full disk --------------------------------------------------------------------------------


@contextlib.contextmanager
def files_limited_to(size):
    """Let every write beyond ``size`` bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1, 100, 700, 1500])
def test_case_17_disk_full_while_publishing(tmp_path, size):
    checkpoint.publish(tmp_path, 1, {"net": {"w": torch.ones(400)}})
    with files_limited_to(size), pytest.raises(NotPublishedError) as caught:
        checkpoint.publish(tmp_path, 2, {"net": {"w": torch.zeros(400)}}, keep_last=1)
    assert "Earlier checkpoints are intact" in str(caught.value)
    assert short_message(caught.value)
    found, message = checkpoint.latest(tmp_path)
    assert (found.step, message) == (1, "")
    assert [p.name for p in tmp_path.iterdir()] == ["ckpt-1"]
    checkpoint.publish(tmp_path, 2, {"net": {"w": torch.zeros(400)}}, keep_last=1)
    assert checkpoint.latest(tmp_path)[0].step == 2


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_case_17_disk_full_while_saving_a_model(model_zip, size):
    before = model_zip.read_bytes()
    with files_limited_to(size), pytest.raises(OSError, match="too large"):
        tiny().save(model_zip)
    assert model_zip.read_bytes() == before
    assert [p.name for p in model_zip.parent.iterdir()] == ["model.zip"]


# --- 19: SIGKILL ----------------------------------------------------------------------------------
# The processes to kill are forked by a fresh interpreter (this file run as a script), because a
# fork of a test process that has used torch's threads may hang.


def publish_state(folder, step, **options):
    parts = {
        "net": {"w": torch.full((100, 100), float(step)), "b": torch.full((3,), float(step))},
        "optimizer": {"state": {0: {"step": torch.tensor(step)}}},
        "counters": {"step": step},
    }
    checkpoint.publish(folder, step, parts, **options)


def check_state(folder):
    found, message = checkpoint.latest(folder)
    assert found is not None
    assert message == "", message  # nothing that is published is ever damaged
    step = found.step
    assert found.parts["counters"] == {"step": step}
    assert found.parts["optimizer"]["state"][0]["step"] == step
    for tensor in found.parts["net"].values():
        assert bool((tensor == step).all())
    return step


def publish_for_ever(folder, first):
    for step in range(first, 10**9):
        publish_state(folder, step, keep_last=2)


def kill_at_random(folder, kills):
    fork = multiprocessing.get_context("fork")
    delays = random.Random(0)
    publish_state(folder, 1)
    step = 1
    for _ in range(kills):
        child = fork.Process(target=publish_for_ever, args=(folder, step + 1))
        child.start()
        child.join(timeout=delays.uniform(0.005, 0.1))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert check_state(folder) >= step
        step = check_state(folder)
    assert step > 1  # some saves were completed in between
    remove_leftovers(folder)
    assert all(p.name.startswith("ckpt-") and "." not in p.name for p in folder.iterdir())


def kill_at_every_operation(folder, prepare, act, check):
    """Kill ``act`` just before its 1st, 2nd, 3rd … change to the disk, until it gets through."""
    for count in range(1, 1000):
        prepare()
        pid = os.fork()
        if pid == 0:
            die_at_operation(folder, count)
            act()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        check()
        if code == 0:
            return count - 1
        assert code == -signal.SIGKILL
    raise AssertionError("never finished")


def die_at_operation(folder, count):
    left = [count]
    kinds = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}

    def hook(event, args):
        if event in kinds and args and str(args[0]).startswith(str(folder)):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def sweep_publish(folder):
    def prepare():
        for step in (1, 2):
            publish_state(folder, step, keep_last=None)

    def act():
        publish_state(folder, 2, keep_last=1)  # replaces one, and prunes the other

    return kill_at_every_operation(folder, prepare, act, lambda: check_state(folder))


def sweep_save(folder):
    path = folder / "model.zip"
    old, new = tiny(), tiny()
    with torch.no_grad():
        new.policy.actor.mu[0].weight.add_(1.0)

    def check():
        found = weights(load_model(SafeTD3, path))
        assert equal(found, weights(old)) or equal(found, weights(new))

    return kill_at_every_operation(folder, lambda: old.save(path), lambda: new.save(path), check)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_case_19_killed_while_saving(tmp_path):
    env = os.environ | {
        "PYTHONPATH": str(Path(rlzoo.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    published, saved = map(int, done.stdout.split())
    # A sweep that never interrupted anything would prove nothing.
    assert published >= 15
    assert saved >= 4


# --- 23, 25, 26, 28: damaged and foreign checkpoints ----------------------------------------------


@pytest.fixture
def two_checkpoints(tmp_path):
    for step in (1, 2):
        _, optimizer = torch.nn.Linear(2, 2), torch.optim.Adam([torch.nn.Parameter(torch.ones(9))])
        optimizer.param_groups[0]["params"][0].grad = torch.ones(9)
        optimizer.step()
        parts = {"net": {"w": torch.ones(30) * step}, "adam": optimizer.state_dict(), "raw": b"abc"}
        checkpoint.publish(tmp_path, step, parts, {"class": "X"})
    return tmp_path


def damaged(folder):
    """The damage must be noticed, named, and stepped over."""
    with pytest.raises(DamagedError, match="Checkpoint ckpt-2 is damaged: ") as caught:
        checkpoint.load(folder / "ckpt-2")
    assert short_message(caught.value)
    found, message = checkpoint.latest(folder)
    assert found.step == 1
    assert "Continuing from ckpt-1" in message
    return str(caught.value)


def test_case_25_truncated_at_any_byte(two_checkpoints):
    for part in sorted((two_checkpoints / "ckpt-2").iterdir()):
        whole = part.read_bytes()
        for size in {*range(0, len(whole), 97), len(whole) - 1}:
            part.write_bytes(whole[:size])
            message = damaged(two_checkpoints)
            if part.name != checkpoint.MANIFEST:
                assert f"part {part.name}, expected {len(whole)} bytes, found {size}" in message
        part.write_bytes(whole)
    assert checkpoint.latest(two_checkpoints)[0].step == 2


def test_case_25_missing_part(two_checkpoints):
    for part in sorted((two_checkpoints / "ckpt-2").iterdir()):
        whole = part.read_bytes()
        part.unlink()
        assert part.name in damaged(two_checkpoints)
        part.write_bytes(whole)


def test_case_26_flipped_bit(two_checkpoints):
    flips = random.Random(0)
    for part in sorted((two_checkpoints / "ckpt-2").iterdir()):
        whole = part.read_bytes()
        for _ in range(100):
            changed = bytearray(whole)
            changed[flips.randrange(len(whole))] ^= 1 << flips.randrange(8)
            part.write_bytes(changed)
            message = damaged(two_checkpoints)
            if part.name != checkpoint.MANIFEST:
                assert f"part {part.name} does not match its checksum" in message
        part.write_bytes(whole)


def test_case_23_all_damaged(two_checkpoints):
    for step in (1, 2):
        (two_checkpoints / f"ckpt-{step}" / "net.safetensors").unlink()
    with pytest.raises(DamagedError, match="all 2 are damaged") as caught:
        checkpoint.latest(two_checkpoints)
    assert caught.value.exit_code == 2


def test_case_28_checkpoint_of_a_newer_rlzoo(two_checkpoints):
    path = two_checkpoints / "ckpt-2" / checkpoint.MANIFEST
    manifest = json.loads(path.read_text()) | {"version": 99}
    manifest["sha256"] = checkpoint._digest(manifest)
    path.write_text(json_tree.dumps(manifest))
    for read in (lambda: checkpoint.load(path.parent), lambda: checkpoint.latest(two_checkpoints)):
        with pytest.raises(RefusedError, match=r"format rlzoo-checkpoint 99") as caught:
            read()
        assert not isinstance(caught.value, DamagedError)  # nothing is wrong with the file


def test_case_28_model_of_a_newer_rlzoo(model_zip):
    rewrite(model_zip, {"rlzoo.json": lambda text: edited(text, version=99)})
    with pytest.raises(RefusedError, match="has format rlzoo-model 99"):
        SafeTD3.load(model_zip)


# --- model files ----------------------------------------------------------------------------------


def rewrite(path, changes, extra=()):
    """Write the members of a zip again: change some (None drops one), add others."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, change in changes.items():
        content = change(members.pop(name)) if change else members.pop(name) and None
        if content is not None:
            members[name] = content
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in [*members.items(), *extra]:
            archive.writestr(name, content)


def edited(text, **values):
    return json.dumps(json.loads(text) | values)


def test_case_25_model_truncated_at_any_byte(model_zip):
    whole = model_zip.read_bytes()
    expected = weights(SafeTD3.load(model_zip))
    for size in [*range(0, len(whole), 97), len(whole) - 1]:
        model_zip.write_bytes(whole[:size])
        with pytest.raises(RefusedError, match="damaged or not a model file") as caught:
            SafeTD3.load(model_zip)
        assert short_message(caught.value)
    model_zip.write_bytes(whole)
    assert equal(weights(SafeTD3.load(model_zip)), expected)


def test_case_26_model_with_a_flipped_bit(model_zip):
    whole, flips = model_zip.read_bytes(), random.Random(1)
    expected, refused = weights(SafeTD3.load(model_zip)), 0
    for position in range(0, len(whole), 211):
        changed = bytearray(whole)
        changed[position] ^= 1 << flips.randrange(8)
        model_zip.write_bytes(changed)
        try:
            found = SafeTD3.load(model_zip)
        except RlzooError:
            refused += 1
        else:  # the bit was in a date or in a text that is not used
            assert equal(weights(found), expected)
    assert refused > 0.7 * len(whole) / 211


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(100), bytes(5000)]
)
def test_case_25_not_a_model_file(tmp_path, content):
    (tmp_path / "x.zip").write_bytes(content)
    for read in (lambda p: load_model(None, p), read_description, SafeTD3.load):
        with pytest.raises(RefusedError, match="damaged or not a model file"):
            read(tmp_path / "x")


@pytest.mark.parametrize("other", [SAC, TQC, DQN, PPO])
def test_case_27_model_of_another_class(model_zip, tmp_path, other):
    save_model(tiny(TD3), tmp_path / "td3.zip")
    message = rf"written by TD3 for Box\(3,\) -> Box\(1,\), asked to load as {other.__name__}\."
    for trust in (False, True):
        with pytest.raises(RefusedError, match=message) as caught:
            load_model(other, tmp_path / "td3", trust_pickle=trust)
        assert short_message(caught.value)
    with pytest.raises(RefusedError, match="written by SafeTD3"):
        load_model(TD3, model_zip)  # the base knows nothing of what an agent adds
    assert type(load_model(SafeTD3, tmp_path / "td3")) is SafeTD3  # an agent may start from it


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting")
def test_case_27_model_of_another_space(model_zip):
    with pytest.raises(
        RefusedError, match=r"written by SafeTD3 for Box\(3,\), asked to load for Box\(2,\)"
    ):
        SafeTD3.load(model_zip, env=gym.make("MountainCarContinuous-v0"))
    rescaled = gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), -3.0, 3.0)
    with pytest.raises(RefusedError, match=r"Box\(-2.0, 2.0.*asked to load for Box\(-3.0, 3.0"):
        SafeTD3.load(model_zip, env=rescaled)


def test_case_27_weights_that_do_not_fit(model_zip):
    def other_size(text):
        description = json.loads(text)
        description["attributes"]["policy_kwargs"] = {"net_arch": [4]}
        return json.dumps(description)

    rewrite(model_zip, {"rlzoo.json": other_size})
    with pytest.raises(RefusedError, match="the weights do not fit SafeTD3") as caught:
        SafeTD3.load(model_zip)
    assert short_message(caught.value)


# --- 29: pickles ----------------------------------------------------------------------------------


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def serialized(canary):
    return {":type:": "x", ":serialized:": base64.b64encode(pickle.dumps(canary)).decode()}


PUBLIC = {
    "agent": SafeTD3.load,
    "function": lambda path: load_model(SafeTD3, path),
    "description": read_description,
    "stock parameters": lambda path: tiny(TD3).set_parameters(path),
}


@pytest.mark.parametrize("read", PUBLIC.values(), ids=PUBLIC)
@pytest.mark.parametrize("key", ["surprise", "policy_class", "observation_space", "learning_rate"])
def test_case_29_payload_in_the_settings(model_zip, tmp_path, caplog, read, key):
    canary = tmp_path / "canary"
    rewrite(model_zip, {"data": lambda text: edited(text, **{key: serialized(Canary(canary))})})
    expected = weights(tiny())
    found = read(model_zip)
    assert not canary.exists()
    if isinstance(found, SafeTD3):
        assert equal(weights(found), expected)
        assert not hasattr(found, "surprise")
        warned = [r.getMessage() for r in caplog.records]
        assert len(warned) == (1 if key == "surprise" else 0)
        assert all("'surprise'" in message for message in warned)


def test_case_29_the_payload_works_where_pickle_is_trusted(model_zip, tmp_path):
    canary = tmp_path / "canary"
    rewrite(model_zip, {"data": lambda text: edited(text, x=serialized(Canary(canary)))})
    SafeTD3.load(model_zip, trust_pickle=True)
    assert canary.exists()


def test_case_29_payload_in_the_weights(model_zip, tmp_path):
    canary = tmp_path / "canary"
    for payload in (Canary(canary), {"w": Canary(canary)}):
        buffer = io.BytesIO()
        torch.save(payload, buffer)
        content = buffer.getvalue()
        rewrite(model_zip, {"policy.pth": lambda _, content=content: content})
        with pytest.raises(RefusedError, match="damaged or not a model file"):
            SafeTD3.load(model_zip)
    rewrite(model_zip, {"policy.pth": lambda _: pickle.dumps(Canary(canary))})
    with pytest.raises(RefusedError):
        SafeTD3.load(model_zip)
    assert not canary.exists()


def test_case_29_stock_file_needs_trust(tmp_path):
    tiny(TD3).save(tmp_path / "stock.zip")
    for cls in (TD3, None):
        with pytest.raises(RefusedError, match=r"trust_pickle=True, or --trust") as caught:
            load_model(cls, tmp_path / "stock")
        assert "'policy_class'" in str(caught.value)
        assert short_message(caught.value)
    assert type(load_model(TD3, tmp_path / "stock", trust_pickle=True)) is TD3
    with pytest.raises(RefusedError, match="Name the class"):
        load_model(None, tmp_path / "stock", trust_pickle=True)


@pytest.mark.parametrize(
    "forged",
    [
        {"class": "os:system"},
        {"class": "stable_baselines3.common.buffers:ReplayBuffer"},
        {"class": "torch.nn:Linear"},
        {"class": 7},
        {"attributes": {}},
        {"attributes": []},
        {"attributes": {"policy_class": {"$": "class", "path": "os:system"}}},
        {"attributes": {"observation_space": {"$": "space", "type": "Box"}}},
        {"attributes": {"observation_space": {"$": "exec", "code": "1"}}},
        {"not_portable": 3},
        {"rebuilt": None},
        {"schedules": {}},
        {"attributes": {"n_envs": {"$": "tuple", "items": 3}}},
        {"format": "other"},
        {"version": "x"},
    ],
)
def test_case_29_forged_description(model_zip, forged):
    rewrite(model_zip, {"rlzoo.json": lambda text: edited(text, **forged)})
    with pytest.raises(RefusedError) as caught:
        load_model(None if "class" in forged else SafeTD3, model_zip)
    assert short_message(caught.value)


# --- 31: zip hygiene ------------------------------------------------------------------------------


def link():
    info = zipfile.ZipInfo("policy")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("../evil", "has the member '../evil'"),
        ("a/../../evil", "has the member"),
        ("/etc/evil", "has the member '/etc/evil'"),
        ("C:\\evil", "has the member"),
        ("a\\..\\evil", "has the member"),
        (link(), "has the link 'policy'"),
    ],
)
@pytest.mark.parametrize("trust", [False, True])
def test_case_31_bad_members(model_zip, member, message, trust):
    rewrite(model_zip, {}, extra=[(member, b"x")])
    with pytest.raises(RefusedError, match=message) as caught:
        SafeTD3.load(model_zip, trust_pickle=trust)
    assert short_message(caught.value)


def test_case_31_too_many_members(model_zip):
    rewrite(model_zip, {}, extra=[(f"m{i}", b"") for i in range(zip_checks.MAX_MEMBERS)])
    with pytest.raises(RefusedError, match="has 1008 members"):
        SafeTD3.load(model_zip)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_case_31_two_members_of_one_name(model_zip):
    rewrite(model_zip, {}, extra=[("data", b"{}")])
    with pytest.raises(RefusedError, match="two members of the same name"):
        SafeTD3.load(model_zip)


def test_case_31_compression_bomb(model_zip, tmp_path):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", bytes(30 << 20))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(RefusedError, match="31457280"):
        SafeTD3.load(bomb)
    # The same one level deeper: the weights are archives as well.
    content = bomb.read_bytes()
    rewrite(model_zip, {"policy.pth": lambda _: content})
    with pytest.raises(RefusedError, match="31457280"):
        SafeTD3.load(model_zip)


def test_case_31_declared_size(model_zip):
    with (
        open(model_zip, "rb") as file,
        pytest.raises(RefusedError, match="at most 1000"),
        zip_checks.opened(file, "model", max_bytes=1000),
    ):
        pass


# --- 37: NaN --------------------------------------------------------------------------------------


def test_case_37_bad_weights_are_never_published(tmp_path):
    checkpoint.publish(tmp_path, 1, {"net": {"w": torch.ones(3)}})
    bad = {"net": {"w": torch.tensor([1.0, math.nan])}, "adam": {"state": [torch.tensor(math.inf)]}}
    with pytest.raises(NonFiniteError) as caught:
        checkpoint.publish(tmp_path, 2, bad, keep_last=1)
    assert caught.value.names == ["net/w", "adam/state/0"]
    assert "Step 2: 2 of 2 tensors are not finite" in str(caught.value)
    assert caught.value.exit_code == 1
    assert [p.name for p in tmp_path.iterdir()] == ["ckpt-1"]
    aside = checkpoint.save_aside(tmp_path, 2, bad, {"loss": math.nan})
    assert aside.name == "nan-2"
    assert checkpoint.load(aside).parts["net"]["w"].isnan().tolist() == [False, True]
    assert checkpoint.latest(tmp_path)[0].step == 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    folders = [Path(sys.argv[1]) / name for name in ("random", "publish", "save")]
    for folder in folders:
        folder.mkdir()
    kill_at_random(folders[0], 200)
    print(sweep_publish(folders[1]), sweep_save(folders[2]))
