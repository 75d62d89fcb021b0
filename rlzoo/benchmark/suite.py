"""A suite: agents, environments, data sets, seeds and protocol, in the sizes of one YAML file.

The file is read and checked by :mod:`rlzoo.benchmark.suite_file`; here a suite becomes a list of
cells. A cell is one run: one agent with one preset in one environment with one seed.

Settings may differ further: a *variant* of an agent is a preset with other values, and stands where
a preset stands; a *label* of an environment (:mod:`rlzoo.core.tasks.ids`) is an id with other
arguments. A policy that nobody trains is measured as an agent would be (``like``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlzoo.core.arguments import Range, check_range
from rlzoo.core.tasks.ids import base_id, canonical
from rlzoo.errors import RefusedError, did_you_mean
from rlzoo.report.benchmark_files import benchmark_root
from rlzoo.runs.directory import safe_name

DEFAULT_PRESET = "default"
SUITE_COPY = "suite.yaml"
"""Name of the copy of a suite that was given as a path, beside the records of its benchmark."""
SEEDS = Range(0, 2**32 - 1)

Key = tuple[str, str, str, str, str, int]


@dataclass(frozen=True)
class Options:
    """What a size, an environment and an agent may all say; None leaves it to the others.

    Args:
        steps: Length of the training; environment steps, or gradient steps of an offline agent.
        eval_freq: Steps between two evaluations.
        eval_episodes: Episodes per evaluation.
        overrides: ``"key=value"``, as for ``--set``.
    """

    steps: int | None = None
    eval_freq: int | None = None
    eval_episodes: int | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Size:
    """One size of a suite.

    Args:
        name: Its name, such as ``"smoke"``.
        options: The protocol; steps, evaluation frequency and episodes are all given.
        seeds: Seeds of every cell.
        agents: The agents of this size.
        envs: The environments of this size.
    """

    name: str
    options: Options
    seeds: tuple[int, ...]
    agents: tuple[str, ...]
    envs: tuple[str, ...]


@dataclass(frozen=True)
class Variant:
    """A configuration of an agent that has a name in a suite only.

    Args:
        name: Its name, which stands where the name of a preset stands.
        presets: Size -> preset that it starts from; None leaves that to the device.
        overrides: Size -> ``"key=value"``, after those of agent, environment and size.
        published: Agent whose published numbers stand beside; None takes the variant's own name.
    """

    name: str
    presets: Mapping[str, str | None]
    overrides: Mapping[str, tuple[str, ...]]
    published: str | None = None


@dataclass(frozen=True)
class AgentEntry:
    """An agent of a suite.

    Args:
        name: Name in the registry, or of a policy that is not trained, such as ``"random"``.
        presets: Size -> presets or variants that are compared with each other.
        envs: Environments that it plays; None for all.
        options: Size -> what differs from the size and the environment.
        needs_data: Whether its cells have a data set.
        variants: Variants by name.
        like: Of a policy that is not trained: the agent as which it is evaluated.
        published: Agent whose published numbers stand beside; None takes its own.
    """

    name: str
    presets: Mapping[str, tuple[str, ...]]
    envs: tuple[str, ...] | None
    options: Mapping[str, Options]
    needs_data: bool
    variants: Mapping[str, Variant] = field(default_factory=dict)
    like: str | None = None
    published: str | None = None


@dataclass(frozen=True)
class EnvEntry:
    """An environment of a suite.

    Args:
        name: Gymnasium id, or a label such as ``CoinRun@50``.
        datasets: Size -> data set for agents that need one, or None.
        options: Size -> what differs from the size.
        published: Name of the environment in the published numbers; None takes its own.
    """

    name: str
    datasets: Mapping[str, str | None]
    options: Mapping[str, Options]
    published: str | None = None


@dataclass(frozen=True)
class Suite:
    """A checked suite.

    Args:
        name: Its name, as in records.
        title: One line for tables.
        score: What is compared: ``"normalized"``, ``"return"`` or ``"metrics.<name>"``.
        reference: File of published numbers in ``benchmarks/reference/``, without ``.csv``; None
            if there is none.
        published: Metric of the published numbers that stand beside; returns are put on the scale
            of the score. None takes the score's own.
        target: Score that counts as solved, for the optimality gap; None leaves the gap out.
        metrics: Metrics of the records that tables show beside the score.
        axis: What the numbers of the labels count, such as training levels.
        every_run: Show every single run: for results that a mean says little about.
        sizes: Sizes by name, in the order of the file.
        agents: Agents by name, in the order of the file.
        envs: Environments by id, in the order of the file.
        source: How messages call the file.
    """

    name: str
    title: str
    score: str
    reference: str | None
    sizes: Mapping[str, Size]
    agents: Mapping[str, AgentEntry]
    envs: Mapping[str, EnvEntry]
    source: str = field(compare=False)
    published: str | None = None
    target: float | None = None
    metrics: tuple[str, ...] = ()
    axis: str | None = None
    every_run: bool = False


@dataclass(frozen=True)
class Cell:
    """One run of a suite.

    Args:
        suite: Name of the suite.
        size: Name of the size.
        agent: Name in the registry, or of a policy that is not trained.
        preset: Name of the preset or variant.
        env: Gymnasium id or label.
        seed: Seed of the run.
        dataset: Id of the data set, None for agents that need none.
        steps: Length of the training.
        eval_freq: Steps between two evaluations.
        eval_episodes: Episodes per evaluation.
        overrides: ``"key=value"`` strings, as for ``--set``.
        base: Preset of a variant; None if ``preset`` is one, or the device decides.
        variant: Whether ``preset`` is the name of a variant.
        like: The agent as which a policy that is not trained is evaluated.
    """

    suite: str
    size: str
    agent: str
    preset: str
    env: str
    seed: int
    dataset: str | None
    steps: int
    eval_freq: int
    eval_episodes: int
    overrides: tuple[str, ...] = ()
    base: str | None = None
    variant: bool = False
    like: str | None = None

    @property
    def env_id(self) -> str:
        """Id of the environment, without what a label adds."""
        return base_id(self.env)

    @property
    def preset_to_take(self) -> str | None:
        """What ``--preset`` gets; None leaves it to the device."""
        return self.base if self.variant or self.like else self.preset or None

    @property
    def key(self) -> Key:
        """What no two cells share: suite, size, agent, preset, environment, seed.

        It is that of the record: an environment with several ids has one name in it.
        """
        env = canonical(self.env)
        return (self.suite, self.size, self.agent, self.preset, env, self.seed)

    def run_dir(self, root: str | Path) -> Path:
        """Return the folder of the run below the folder of the benchmark."""
        agent = safe_name(self.agent)
        if self.preset != DEFAULT_PRESET:
            agent = f"{agent}-{safe_name(self.preset)}"
        return Path(root) / "results" / agent / safe_name(self.env) / f"seed_{self.seed}"


def known_suites() -> list[str]:
    """Return the names of the suites that ship, sorted."""
    root = benchmark_root()
    if root is None:
        return []
    names = (file.name for file in (root / "suites").iterdir() if file.is_file())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_suite(name_or_path: str | Path) -> Suite:
    """Read and check a suite.

    Args:
        name_or_path: Name of one that ships, or the path of a ``.yaml`` file.

    Raises:
        RefusedError: If there is none of that name, or with ``file:line`` for anything wrong in
            the file: an unknown key, agent, environment or size, a wrong type, a missing value.
    """
    from rlzoo.benchmark.suite_file import read_suite

    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith((".yaml", ".yml")):
        return read_suite(Path(name_or_path), text)
    names, root = known_suites(), benchmark_root()
    if root is None or text not in names:
        raise RefusedError(
            f"Unknown suite {text!r}. {did_you_mean(text, names)}".strip(),
            f"Suites: {', '.join(names) or 'none are installed'}.",
            "An own one is given as a path that ends with .yaml.",
        )
    return read_suite(root / "suites" / f"{text}.yaml", f"benchmarks/suites/{text}.yaml")


def cells(
    suite: Suite,
    size: str,
    agents: Sequence[str] | None = None,
    envs: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    presets: Sequence[str] | None = None,
) -> list[Cell]:
    """Return the runs of a suite, each once, always in the same order.

    All cells of one seed come before those of the next, so a benchmark that is stopped early has
    something of every agent and environment.

    Args:
        suite: The suite.
        size: Name of one of its sizes.
        agents: Keep only these; None keeps all of the size.
        envs: Keep only these; None keeps all of the size.
        seeds: Take these instead of the ones of the size.
        presets: Keep only these; None keeps all of the size.

    Raises:
        RefusedError: For a name that the size does not have, a seed out of range, or if nothing
            is left.
    """
    if size not in suite.sizes:
        raise _unknown("size", size, suite.sizes, suite.name)
    chosen = suite.sizes[size]
    where = f"{suite.name} --size {size}"
    wanted_agents = _selected("agent", agents, chosen.agents, where)
    wanted_envs = _selected("environment", envs, chosen.envs, where)
    wanted_seeds = chosen.seeds if seeds is None else _checked_seeds(seeds)
    of_size = [name for agent in chosen.agents for name in suite.agents[agent].presets[size]]
    wanted_presets = _selected("preset", presets, tuple(dict.fromkeys(of_size)), where)
    # In the order of the suite, whatever the order of the filters.
    pairs = [
        (suite.agents[agent], suite.envs[env])
        for env in chosen.envs
        for agent in chosen.agents
        if agent in wanted_agents and env in wanted_envs
    ]
    found = [
        cell
        for seed in wanted_seeds
        for a, e in pairs
        for cell in _cells(suite, chosen, a, e, seed)
        if cell.preset in wanted_presets
    ]
    if not found:
        raise RefusedError(
            f"The suite {where} has no cell with these agents and environments.",
            *(f"{a.name} plays {', '.join(_envs_of(a, chosen))}." for a, _ in pairs[:1]),
        )
    return found


def _cells(suite: Suite, size: Size, agent: AgentEntry, env: EnvEntry, seed: int) -> Iterator[Cell]:
    """Yield the cells of one agent in one environment: one for each preset or variant."""
    if agent.envs is not None and env.name not in agent.envs:
        return
    # The agent knows better than the environment, and both better than the size.
    layers = (agent.options[size.name], env.options[size.name], size.options)
    overrides = tuple(text for layer in reversed(layers) for text in layer.overrides)
    for preset in agent.presets[size.name]:
        variant = agent.variants.get(preset)
        more = () if variant is None else variant.overrides[size.name]
        yield Cell(
            suite=suite.name,
            size=size.name,
            agent=agent.name,
            preset=preset,
            env=env.name,
            seed=seed,
            dataset=env.datasets[size.name] if agent.needs_data else None,
            steps=0 if agent.like else _first(layer.steps for layer in layers),
            eval_freq=_first(layer.eval_freq for layer in layers),
            eval_episodes=_first(layer.eval_episodes for layer in layers),
            overrides=(*overrides, *more),
            base=None if variant is None else variant.presets[size.name],
            variant=variant is not None,
            like=agent.like,
        )


def _first(values: Iterator[int | None]) -> int:
    """Return the first value that is given; the size, the last one, gives all of them."""
    return next(value for value in values if value is not None)


def _envs_of(agent: AgentEntry, size: Size) -> Sequence[str]:
    return agent.envs if agent.envs is not None else size.envs


def _selected(
    what: str, wanted: Sequence[str] | None, known: tuple[str, ...], where: str
) -> tuple[str, ...]:
    if wanted is None:
        return known
    for name in wanted:
        if name not in known:
            raise _unknown(what, name, known, where)
    return tuple(wanted)


def _unknown(
    what: str, name: str, known: Mapping[str, object] | Sequence[str], where: str
) -> RefusedError:
    return RefusedError(
        f"The suite {where} has no {what} {name!r}. {did_you_mean(name, known)}".strip(),
        f"It has: {', '.join(known)}.",
    )


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Return the seeds without repetitions, in their order."""
    for seed in seeds:
        check_range("seed", seed, SEEDS)
    return tuple(dict.fromkeys(seeds))
