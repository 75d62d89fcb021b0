"""Named seed streams, generator states without pickle, and the choice of the device."""

import json
import os
import random

import numpy as np
import pytest
import torch

from rlzoo.core.device import available_devices, configure_cpu, resolve_device
from rlzoo.core.seeding import check_seed, get_states, seed_everything, set_states, stream


def draw() -> tuple[object, ...]:
    return (
        random.random(),
        random.gauss(0, 1),
        np.random.rand(3).tolist(),  # noqa: NPY002
        np.random.randn(),  # noqa: NPY002 - the legacy generator keeps the second value of a pair
        torch.rand(3).tolist(),
        torch.randn(1).item(),
    )


def test_states_come_back_through_json():
    seed_everything(3)
    draw()
    states = json.loads(json.dumps(get_states(), allow_nan=False))
    expected = [draw(), draw()]
    seed_everything(99)
    draw()
    set_states(states)
    assert [draw(), draw()] == expected


def test_reading_the_states_does_not_advance_them():
    seed_everything(0)
    expected = draw()
    seed_everything(0)
    get_states()
    assert draw() == expected


def test_seed_everything_depends_on_the_seed_only():
    seed_everything(5)
    first = draw()
    seed_everything(6)
    second = draw()
    seed_everything(5)
    assert draw() == first
    assert first[0] != second[0]
    assert first[2] != second[2]
    assert first[4] != second[4]


def test_generators_get_different_seeds():
    seed_everything(1)
    assert np.random.get_state()[1][0] != torch.initial_seed()  # noqa: NPY002


def test_stream_has_the_documented_value():
    # First 4 bytes of sha256("0/env/3"), little endian. If it changes, no run can be repeated.
    assert stream(0, "env", 3) == 1198710217


def test_a_slash_in_a_name_does_not_make_it_two():
    assert len({stream(0, *n) for n in (["a/b"], ["a", "b"], ["a~1b"], ["a~b"])}) == 4


def test_streams_are_different_and_in_range():
    names = [(kind, i) for kind in ("env", "eval", "collect") for i in range(300)]
    values = [stream(seed, *name) for seed in range(3) for name in names]
    assert len(set(values)) >= len(values) - 1  # one chance meeting among 2700 of 2**32 at most
    assert all(0 <= value < 2**32 for value in values)
    for seed in range(50):
        assert stream(seed, "env") != seed


def test_streams_of_neighbouring_seeds_are_uncorrelated():
    bits = np.array([[stream(s, "env") >> b & 1 for b in range(32)] for s in range(1000)])
    assert np.abs(bits.mean(0) - 0.5).max() < 0.08
    assert np.abs(np.corrcoef(bits[:-1, 0], bits[1:, 0])[0, 1]) < 0.1


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, np.int64(7)])
def test_good_seeds_are_plain_ints(seed):
    assert type(check_seed(seed)) is int
    assert check_seed(seed) == seed


def test_auto_device_falls_back():
    device = resolve_device("auto")
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert available_devices()[0] == "cpu"


@pytest.mark.parametrize(("value", "threads"), [("1", 1), ("", None), ("1,2", 1), ("many", None)])
def test_threads_from_the_environment(monkeypatch, value, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    before = torch.get_num_threads()
    try:
        used = configure_cpu()
        assert used == (threads or min(len(os.sched_getaffinity(0)), 8))
        assert torch.get_num_threads() == used
        assert configure_cpu(1) == 1
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)  # hypothesis needs subnormal numbers
