"""What leaderboards and reports know about the suites of some records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlzoo.errors import RefusedError

if TYPE_CHECKING:
    from rlzoo.benchmark.suite import Suite
    from rlzoo.report.leaderboard_table import SuiteFacts
    from rlzoo.report.records import Record


def suite_facts(
    records: Iterable[Record],
    folder: Path | None = None,
    files: Sequence[Path] = (),
    warn: Callable[[str], None] = lambda _: None,
) -> dict[str, SuiteFacts]:
    """Return name of a suite -> title, score, target, planned cells.

    Suites that ship are known by their names. Those of one's own are in the copies that benchmarks
    leave beside their records, and in files that are named; these come first, then the copies.

    Args:
        records: Which suites matter.
        folder: Folder of one benchmark, or of several.
        files: Suite files.
        warn: Gets a line about every copy that cannot be used.

    Raises:
        RefusedError: If a named file is no suite.
    """
    from rlzoo.benchmark.suite import cells, known_suites, load_suite
    from rlzoo.report.leaderboard_table import SuiteFacts

    suites: dict[str, Suite] = {}
    for suite in (*map(load_suite, files), *_copies(folder, warn)):
        earlier = suites.setdefault(suite.name, suite)
        if earlier != suite:
            warn(f"Warning: {suite.source} differs from {earlier.source}, which counts.")
    wanted = {record.suite for record in records}
    for name in sorted(wanted & set(known_suites()) - set(suites)):
        suites[name] = load_suite(name)
    return {
        name: SuiteFacts(
            suite.title,
            suite.score,
            tuple(cell.key for size in suite.sizes for cell in cells(suite, size)),
            suite.target,
            suite.published,
            suite.metrics,
            suite.axis,
            suite.every_run,
            _published_as(suite),
            {env.name: env.published for env in suite.envs.values() if env.published},
        )
        for name, suite in suites.items()
        if name in wanted
    }


def _published_as(suite: Suite) -> dict[tuple[str, str], str]:
    """Return agent and preset -> agent whose published numbers stand beside, where that is said."""
    found: dict[tuple[str, str], str] = {}
    for agent in suite.agents.values():
        for presets in agent.presets.values() if agent.published else ():
            found |= {(agent.name, preset): agent.published or "" for preset in presets}
        # A variant is not its agent: without a word it is compared with its own name only.
        for variant in agent.variants.values():
            found[agent.name, variant.name] = variant.published or variant.name
    return found


def _copies(folder: Path | None, warn: Callable[[str], None]) -> list[Suite]:
    from rlzoo.benchmark.suite import SUITE_COPY, load_suite
    from rlzoo.report.leaderboard import find_results

    if folder is None:
        return []
    found = []
    for results in find_results(folder):
        copy = results.with_name(SUITE_COPY)
        if copy.is_file():
            try:
                found.append(load_suite(copy))
            except RefusedError as error:  # of another version of rlzoo, or damaged
                warn(f"Warning: {error.given}")
    return found
