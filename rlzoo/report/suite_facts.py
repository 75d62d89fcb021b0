"""What a table knows about a suite beside its records, and which published numbers stand where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rlzoo.report.records import Key, Record
from rlzoo.report.reference import Reference, load_reference, on_scale, published

OWN = "rlzoo"


@dataclass(frozen=True)
class SuiteFacts:
    """What a table needs to know about a suite beside its records.

    Args:
        title: One line for headings; the name of the suite if empty.
        score: What is compared: ``"normalized"``, ``"return"`` or ``"metrics.<name>"``.
        planned: Keys of the cells that the suite has, in its order; None if that is not known.
        target: Score that counts as solved, for the optimality gap; None leaves the gap out.
        published: Metric of the published numbers, if it is not the score: returns are put on the
            scale of the score.
        metrics: Metrics of the records that are shown beside the score.
        axis: What the numbers behind the ``@`` of the environments count.
        every_run: Show every run.
        published_as: Agent and preset -> agent whose published numbers stand beside.
        published_envs: Environment -> its name in the published numbers.
    """

    title: str = ""
    score: str = "return"
    planned: tuple[Key, ...] | None = None
    target: float | None = None
    published: str | None = None
    metrics: tuple[str, ...] = ()
    axis: str | None = None
    every_run: bool = False
    published_as: Mapping[tuple[str, str], str] = field(default_factory=dict)
    published_envs: Mapping[str, str] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """Metric of the published numbers."""
        return self.published or self.score.removeprefix("metrics.")

    @property
    def converts(self) -> bool:
        """Whether published returns become scores."""
        return self.score == "normalized" and self.metric == "return"

    def name_of(self, suite: str, agent: str, preset: str) -> str:
        """Return the agent whose published numbers a row is compared with.

        Relatives of an agent that are presets here have names of their own in tables of papers.
        """
        if (agent, preset) in self.published_as:
            return self.published_as[agent, preset]
        return preset if any(r.agent == preset for r in load_reference(suite)) else agent

    def reference(
        self, suite: str, agent: str, env: str, records: Iterable[Record]
    ) -> Reference | None:
        """Return the published score for the data set and the length of some runs."""
        found = self.number(suite, agent, env, self.metric, records)
        return on_scale(found, env) if found is not None and self.converts else found

    def number(
        self, suite: str, agent: str, env: str, metric: str, records: Iterable[Record]
    ) -> Reference | None:
        """Return the published number of any metric, as it is."""
        ordered = sorted(records, key=lambda record: (record.source != OWN, record.key))
        dataset = next((r.dataset for r in ordered if r.dataset), None)
        steps = next((r.total_timesteps for r in ordered if r.total_timesteps), None)
        return published(suite, agent, self.published_envs.get(env, env), metric, dataset, steps)

    def returns(
        self, suite: str, envs: Sequence[str], records: Sequence[Record]
    ) -> dict[str, tuple[Reference | None, ...]]:
        """Return agent -> published returns, in the order of the file; of runs of like length."""
        agents = dict.fromkeys(r.agent for r in load_reference(suite) if r.metric == "return")
        found = {
            agent: tuple(self.number(suite, agent, env, "return", records) for env in envs)
            for agent in agents
        }
        return {agent: numbers for agent, numbers in found.items() if any(numbers)}
