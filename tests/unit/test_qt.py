"""Qt for Procgen: from the system or a wheel, and what is said where it is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlzoo.envs import qt

pytest.importorskip("envpool", reason='needs pip install "rlzoo[coinrun]"')

PLAY = """
from rlzoo.envs import make_vec
vec = make_vec("CoinRun", 2)
frames = vec.reset()
print(__import__("hashlib").sha256(frames.tobytes()).hexdigest())
"""


def play(hide: list[Path] | None = None, code: str = PLAY) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, in which files and folders are empty."""
    hidden = "".join(
        f"mount --bind {'$empty' if path.is_dir() else '/dev/null'} '{path}' && "
        for path in hide or []
    )
    shell = f"empty=$(mktemp -d) && {hidden} rmdir $empty; exec '{sys.executable}' -c '{code}'"
    command = ["unshare", "--mount", "sh", "-c", shell] if hide else [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(Path(qt.__file__).parents[2])}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def can_hide() -> bool:
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "--mount", "sh", "-c", "mount --bind /dev/null /etc/hostname"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


needs_hiding = pytest.mark.skipif(not can_hide(), reason="files cannot be hidden without root")


def of_the_system(*names: str) -> list[Path]:
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False)
    paths = [line.rpartition("=> ")[2].strip() for line in listed.stdout.splitlines()]
    found = {Path(path).resolve() for path in paths if Path(path).name.startswith(names)}
    return sorted(found)


def of_the_wheel() -> list[Path]:
    folder = qt.wheel_folder()
    if folder is None:
        return []
    packages = folder.parents[2]
    return [folder.parents[1], *packages.glob("[Pp]y[Qq]t5[_-][Qq]t5-*.dist-info")]


@pytest.fixture(scope="module")
def frames() -> str:
    done = play()
    if done.returncode:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    return done.stdout


def test_envpool_may_be_imported_first(frames: str) -> None:
    """It fails to load the extension then, and would not try again by itself."""
    assert play(code=f"import envpool\n{PLAY}").stdout == frames


@needs_hiding
@pytest.mark.skipif(not of_the_wheel(), reason="the wheel PyQt5-Qt5 is not installed")
def test_the_wheel_is_enough(frames: str) -> None:
    hidden = of_the_system("libQt5")
    done = play(hidden or [Path("/etc/hostname")])
    assert done.stdout == frames, done.stderr


@needs_hiding
def test_without_qt_both_ways_are_named() -> None:
    done = play([*of_the_system("libQt5"), *of_the_wheel(), Path("/etc/hostname")])
    assert done.returncode == 1
    message = done.stderr.splitlines()[-3:]
    assert "CoinRun needs Qt 5: libQt5Gui.so.5" in message[0]
    assert "PyQt5-Qt5" in message[1]
    assert 'pip install "rlzoo[coinrun]" and apt install libgl1' in message[2]
    assert "or only apt install libqt5core5a libqt5gui5" in message[2]


@needs_hiding
@pytest.mark.skipif(not of_the_wheel(), reason="the wheel PyQt5-Qt5 is not installed")
@pytest.mark.parametrize("library", ["libGL.so.1", "libglib-2.0.so.0"])
def test_what_the_wheel_needs_of_the_system_is_named(library: str) -> None:
    done = play([*of_the_system("libQt5"), *of_the_system(library)])
    assert done.returncode == 1
    message = done.stderr.splitlines()[-3:]
    assert "PyQt5-Qt5 cannot be loaded" in message[0]
    assert library in message[0]
    assert message[2] == "Install them with: apt install libgl1 libglib2.0-0"


def test_doctor_says_which_qt_it_is(frames: str) -> None:
    from rlzoo.runs.doctor import examine

    found = {check.name: check for check in examine()}["Procgen: CoinRun"]
    assert found.ok
    assert "Qt 5 of the system" in found.detail or "PyQt5-Qt5 5.15" in found.detail
