"""``python -O`` drops assertions: nothing in the library may rely on one.

The whole folder passes as ``python -O -m pytest tests/faults`` too; the first test proves that the
assertions of the tests are still executed there.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rlzoo


def test_assertions_of_the_tests_are_executed() -> None:
    with pytest.raises(AssertionError):
        assert 1 == 2


def test_the_library_has_no_assertions() -> None:
    paths = sorted(Path(rlzoo.__file__).parent.rglob("*.py"))
    assert len(paths) > 50
    found = [
        f"{path.name}:{node.lineno}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert not found


@pytest.mark.parametrize("option", ["-O", "-OO", "-B"])
def test_sb3s_checks_of_environments_are_assertions_and_are_kept(option: str) -> None:
    code = """
import sys
import gymnasium as gym
from stable_baselines3.common import env_checker
from rlzoo.core.asserts import with_asserts

class Old(gym.Wrapper):
    def step(self, action):
        return self.env.step(action)[:4]

def refused(check):
    try:
        check(Old(gym.make("CartPole-v1")), warn=False)
    except AssertionError:
        return True
    except Exception:
        return False
    return False

kept = with_asserts("stable_baselines3.common.env_checker")
assert_runs = refused(env_checker.check_env)
print(refused(kept.check_env), assert_runs, kept is env_checker)
"""
    done = subprocess.run(
        [sys.executable, option, "-W", "ignore", "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    optimised = option != "-B"
    assert done.stdout.split() == ["True", str(not optimised), str(not optimised)], done.stderr
