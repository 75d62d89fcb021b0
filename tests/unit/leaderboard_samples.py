"""Records as benchmarks write them, with numbers that are easy to check by hand."""

from __future__ import annotations

from typing import Any

from rlzoo.report.records import Record

HOPPER = "Hopper-v4"
CHEETAH = "HalfCheetah-v4"
DATE = "2026-01-02T03:04:05+00:00"


def record(agent: str, env: str, seed: int, value: float | None = 1000.0, **fields: Any) -> Record:
    """A run with this final return and a curve of three points; a failed one for None."""
    facts: dict[str, Any] = {
        "suite": "mujoco",
        "size": "smoke",
        "preset": "cpu",
        "total_timesteps": 300,
        "date": DATE,
        "device": "cpu",
        **fields,
    }
    if value is None:
        return Record(agent=agent, env=env, seed=seed, status="failed", **{"error": "no", **facts})
    final = {"return_mean": value, "return_std": 1.0, "episodes": 5, "normalized": value / 10}
    facts = {
        "final": final,
        "best": {**final, "step": 300},
        "curve": tuple((step, value * step / 300) for step in (100, 200, 300)),
        "steps_per_second": 50.0,
        "wall_seconds": 6.0,
        **facts,
    }
    return Record(agent=agent, env=env, seed=seed, status="ok", **facts)


def two_agents() -> list[Record]:
    """Two agents, two environments, three seeds; one cell failed and one agent lacks a seed."""
    records = [
        record(agent, env, seed, base + 10 * seed)
        for agent, base in (("bear", 400.0), ("td3", 200.0))
        for env in (HOPPER, CHEETAH)
        for seed in range(3)
    ]
    records[-1] = record("td3", CHEETAH, 2, None, error="worker died:\nsignal 9")
    return records
