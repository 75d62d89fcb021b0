"""Tiny suites of real agents, and what benchmark tests ask of an output folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SUITE = """\
suite: tiny
title: Two agents, tiny networks
score: return
sizes:
  smoke: {{steps: 200, eval_freq: 100, eval_episodes: 1, seeds: {seeds}}}
agents:
  ppo:
    envs: [CartPole-v1]
    set: [n_steps=32, batch_size=32, n_epochs=1, n_envs=1, "policy_kwargs.net_arch=[8]"]
  td3:
    envs: [Pendulum-v1]
    steps: {td3_steps}
    eval_freq: 500
    set: [learning_starts=50, batch_size=16, "policy_kwargs.net_arch=[8]", checkpoint_freq=100]
{more}
envs:
  CartPole-v1: {{}}
  Pendulum-v1: {{}}
"""

# A discrete agent in a continuous environment: refused in every run, whatever the seed.
ALWAYS_FAILS = "  dqn: {envs: [Pendulum-v1]}"

TIMEOUT = 300


def write_suite(
    path: Path, seeds: tuple[int, ...] = (0,), td3_steps: int = 200, more: str = ""
) -> Path:
    text = SUITE.format(seeds=list(seeds), td3_steps=td3_steps, more=more)
    path.write_text(textwrap.dedent(text))
    return path


def lines(out: Path) -> list[dict[str, Any]]:
    """The whole records of an output folder, in their order."""
    text = (out / "results.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def counts(out: Path, status: str = "ok") -> Counter[tuple[str, int]]:
    """How many records every (agent, seed) has."""
    return Counter((r["agent"], r["seed"]) for r in lines(out) if r["status"] == status)


def has_checkpoint(run: Path) -> bool:
    """Whether a run has a complete checkpoint; older ones make room for newer ones."""
    found = (run / "checkpoints").glob("ckpt-*")
    return any(path.name.removeprefix("ckpt-").isdecimal() for path in found)


class Driver:
    """``rlzoo benchmark --json`` as a process of its own, with its events as they come."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "rlzoo.cli.main", "benchmark"]
        self.process = subprocess.Popen(
            [*command, *(str(argument) for argument in arguments), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            # A shell that starts the tests in the background makes its children ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def events(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield json.loads(line)

    def until(self, **wanted: object) -> dict[str, Any]:
        """Wait for an event with these facts; those of its cell count as well."""
        seen = []
        for event in self.events():
            facts = {**event.get("cell", {}), **event}
            if all(facts.get(name) == value for name, value in wanted.items()):
                return event
            seen.append(event)
        raise AssertionError(f"no {wanted} in {seen}; {self.end()}")

    def end(self) -> tuple[int, list[dict[str, Any]], str]:
        """Wait for the end; return exit code, remaining events and stderr."""
        out, err = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, [json.loads(line) for line in out.splitlines()], err

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=TIMEOUT)


def started(events: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """The cells that were started, in order."""
    cells = [event["cell"] for event in events if event["event"] == "started"]
    return [(cell["agent"], cell["seed"]) for cell in cells]


def pid_of(event: dict[str, Any]) -> int:
    """Process id of the worker in a ``started`` event."""
    return int(event["where"].split()[1].rstrip(","))
