"""What the wheel holds: configurations, behaviours, the marker for type checkers."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rlzoo

ROOT = Path(rlzoo.__file__).parents[1]


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def test_every_configuration_is_in_the_wheel(wheel_names: set[str]) -> None:
    files = [path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")]
    assert len(files) > 5
    assert {f"rlzoo/_configs/{path.as_posix()}" for path in files} <= wheel_names


def test_behaviours_marker_and_readmes_are_in_the_wheel(wheel_names: set[str]) -> None:
    for env in ("hopper", "halfcheetah"):
        for level in ("medium", "expert"):
            for suffix in ("safetensors", "json"):
                assert f"rlzoo/data/behaviours/{env}-{level}.{suffix}" in wheel_names
    assert "rlzoo/py.typed" in wheel_names
    assert "rlzoo/agents/bear/README.md" in wheel_names


def test_tests_and_benchmarks_are_not_in_the_wheel(wheel_names: set[str]) -> None:
    assert not [n for n in wheel_names if n.startswith(("tests/", "benchmarks/", "configs/"))]
