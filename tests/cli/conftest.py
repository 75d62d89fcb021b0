"""The command line inside of this process, in an empty folder, with a small data set at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from rlzoo.cli.main import main

DATA = "rlzoo/hopper/random-1k-v0"

TINY_BEAR = (
    "--set=batch_size=16", "--set=n_mmd_samples=2", "--set=n_target_samples=2",
    "--set=warmup_steps=10", "--set=policy_kwargs.net_arch=[8, 8]",
    "--set=policy_kwargs.vae_arch=[8, 8]", "--set=policy_kwargs.n_eval_samples=4",
)  # fmt: skip


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def refused(self) -> bool:
        """Refused as promised: exit code 2, at most three lines, nothing on stdout."""
        lines = self.err.strip().splitlines()
        return self.code == 2 and 1 <= len(lines) <= 3 and "Traceback" not in self.err


@pytest.fixture(scope="session", autouse=True)
def collecting_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep unfinished collections away from the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLZOO_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def rlzoo(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Outcome]:
    """Return ``rlzoo(*arguments) -> Outcome``; the current folder is ``tmp_path``."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def tiny_bear() -> tuple[str, ...]:
    """Options for a BEAR whose update takes a few milliseconds."""
    return TINY_BEAR


@pytest.fixture(scope="session")
def small_data(collecting_folder: None) -> str:
    """Id of 1,000 random transitions of Hopper-v4 in the store of this session."""
    assert main(["collect", DATA]) == 0
    return DATA


@pytest.fixture(scope="session")
def bear_run(small_data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of ``rlzoo train bear``: 200 updates, evaluations at 80, 160 and 200."""
    path = tmp_path_factory.mktemp("runs") / "bear"
    code = main(
        ["train", "bear", "--dataset", small_data, "--steps", "200", "--eval-freq", "80",
         "--eval-episodes", "2", "--seed", "5", "--run-dir", str(path), *TINY_BEAR]
    )  # fmt: skip
    assert code == 0
    return path
