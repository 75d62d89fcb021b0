"""Run folders, their names, and what stays behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlzoo.runs.directory import RunDirectory, default_path, safe_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Hopper-v4", "Hopper-v4"),
        ("rlzoo/hopper/medium-v0", "rlzoo-hopper-medium-v0"),
        ("module:Env-v0", "module-Env-v0"),
        ("../../etc", "etc"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("ä ö", "unnamed"),
        ("a=1.5_b", "a=1.5_b"),
    ],
)
def test_safe_names_stay_in_their_folder(name: str, expected: str) -> None:
    assert safe_name(name) == expected


def test_default_paths_count_up(tmp_path: Path) -> None:
    first = default_path(tmp_path, "ALE/Pong-v5", "dqn", "default", 7)
    assert first == tmp_path / "ALE-Pong-v5" / "dqn" / "default_seed7_1"
    first.mkdir(parents=True)
    assert default_path(tmp_path, "ALE/Pong-v5", "dqn", "default", 7).name == "default_seed7_2"
    assert default_path(tmp_path, "ALE/Pong-v5", "dqn", "default", 8).name == "default_seed8_1"


def test_a_folder_that_was_never_used_is_removed(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run") as run:
        assert run.lock.exists()
    assert not (tmp_path / "run").exists()


def test_a_folder_with_files_stays_without_its_lock(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run") as run:
        run.write_json(run.result, {"a": 1})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result.json"]
