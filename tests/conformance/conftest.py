"""Every test of this folder that takes ``agent`` runs once per row of the table."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlzoo.agents.registry import AGENTS
from rlzoo.data.transitions import Transitions

from .agents import EPISODE, ROWS, Subject


def _subject(name: str, tiny_data: Callable[..., Transitions]) -> Subject:
    spec = AGENTS[name]

    def data(env_id: str) -> Transitions:
        return tiny_data(env_id, max_episode_steps=EPISODE)

    return Subject(spec.name, spec, ROWS[name], spec.load_class(), data)


@pytest.fixture(params=ROWS)
def agent(request: pytest.FixtureRequest, tiny_data: Callable[..., Transitions]) -> Subject:
    """One agent under test."""
    return _subject(request.param, tiny_data)


@pytest.fixture(params=[name for name in ROWS if AGENTS[name].needs_data])
def offline_agent(request: pytest.FixtureRequest, tiny_data: Callable[..., Transitions]) -> Subject:
    """One agent under test that learns from data."""
    return _subject(request.param, tiny_data)
