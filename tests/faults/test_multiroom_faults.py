"""MultiRoom without minigrid: the message names the extra."""

from __future__ import annotations

import sys

import gymnasium as gym
import pytest

from rlzoo.envs import make_env, make_vec
from rlzoo.errors import RefusedError


def test_minigrid_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minigrid.envs", None)
    monkeypatch.delitem(sys.modules, "rlzoo.envs.multiroom.env", raising=False)
    for make in (make_vec, make_env):
        with pytest.raises(RefusedError) as caught:
            make("rlzoo/MultiRoom-N3r-v0")
        lines = str(caught.value).splitlines()
        assert len(lines) <= 3
        assert "'rlzoo/MultiRoom-N3r-v0' needs a package that is missing" in lines[0]
        assert lines[-1] == 'Install it with: pip install "rlzoo[minigrid]"'
    with pytest.raises(gym.error.DependencyNotInstalled, match=r"rlzoo\[minigrid\]"):
        gym.make("rlzoo/MultiRoom-N3r-v0")
