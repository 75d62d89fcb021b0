"""``rlzoo encoder``, and CarRacing from its latents end to end."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rlzoo.core.vae import load_encoder

needs_car = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("Box2D", "pygame", "envpool")),
    reason='needs Box2D, pygame and envpool: pip install "rlzoo[carracing]"',
)
SMALL = ("--frames", 40, "--epochs", 2, "--n-envs", 4, "--threads", 1)


@needs_car
def test_from_frames_to_a_policy(
    rlzoo: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLZOO_HOME", str(tmp_path))
    trained = rlzoo("encoder", *SMALL, "--json")
    assert trained.code == 0, trained.err
    card = json.loads(trained.out)
    file = tmp_path / "encoders" / "CarRacing-v3.safetensors"
    assert card["file"] == str(file)
    assert (card["backend"], card["frames"], card["epochs"]) == ("envpool", 40, 2)
    assert load_encoder(file)[1]["loss"] == card["loss"]
    with Image.open(card["picture"]) as picture:
        assert picture.size == (2 * 64, 2 * 64)  # the 2 held-out frames above what came back

    run = rlzoo(
        "train", "obs-dropout", "--env", "CarRacing-v3", "--steps", 150, "--eval-freq", 80,
        "--eval-episodes", 2, "--set=run.env_kwargs.max_episode_steps=20", "--set=run.n_envs=4",
        "--set=pop_size=4", "--set=run.checkpoint_freq=100", "--run-dir", "run",
    )  # fmt: skip
    assert run.code == 0, run.err
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["total_timesteps"] == 160
    assert record["env"] == "CarRacing-v3"
    evaluated = rlzoo("eval", "run", "--episodes", 2, "--json")
    assert evaluated.code == 0, evaluated.err
    assert json.loads(evaluated.out)["length_mean"] == 20
    assert (tmp_path / "run" / "pictures" / "episode_0.png").is_file()

    # Another encoder makes other observations: the run would not go on as it was.
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["encoder_sha256"] == digest
    assert rlzoo("encoder", *SMALL, "--seed", 5, "--overwrite").code == 0
    refused = rlzoo("resume", "run", "--steps", 240)
    assert refused.refused
    assert "encoder_sha256" in refused.err


@needs_car
def test_the_same_seed_gives_the_same_encoder(rlzoo: Callable, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        found = rlzoo("encoder", *SMALL, "--seed", seed, "--out", f"{name}.safetensors")
        assert found.code == 0, found.err
    a, b, c = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    refused = rlzoo("encoder", *SMALL, "--out", "a.safetensors")
    assert refused.refused
    assert "--overwrite" in refused.err


@needs_car
def test_without_an_encoder_the_way_to_it_is_told(
    rlzoo: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLZOO_HOME", str(tmp_path))
    found = rlzoo("train", "obs-dropout", "--env", "CarRacing-v3", "--run-dir", "run")
    assert found.refused
    assert "rlzoo encoder" in found.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--frames", "0"], ["frames=0"]), (["--latents", "0"], ["n_latents=0"])],
)
def test_what_encoder_refuses(rlzoo: Callable, arguments: list[str], words: list[str]) -> None:
    found = rlzoo("encoder", *arguments, "--out", "x.safetensors")
    assert found.refused, found
    assert all(word in found.err for word in words)
