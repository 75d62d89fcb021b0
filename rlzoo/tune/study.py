"""A study on disk: which trials there are, who works on them, which one is next.

Several processes may work on one study, on one machine or on a file system that they share. A trial
belongs to the process that holds its lock; when that process dies, whoever asks next notes it and
tries the same settings once more.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlzoo.core.safe_files import to_json, write_atomic
from rlzoo.core.seeding import stream
from rlzoo.errors import FailedError, RefusedError
from rlzoo.tune.locks import JournalLock, hold, holding
from rlzoo.tune.space import Dimension

PRUNERS = ("median", "hyperband", "none")
JOURNAL, FACTS = "journal.log", "study.json"
INTERRUPTED, ERROR, SEED, RETRY_OF = "interrupted", "error", "seed", "retry_of"
HOPELESS = 5
"""A study ends when so many trials failed and none did not."""


@dataclass(frozen=True)
class TrialRow:
    """One trial of a study.

    Args:
        number: Its number.
        state: ``complete``, ``pruned``, ``failed``, ``interrupted``, ``running`` or ``waiting``.
        value: Final return; of a pruned trial the last one; None if there is none.
        settings: Key -> value.
        error: Why it failed.
        seed: Seed of its training.
        folder: Its run folder.
    """

    number: int
    state: str
    value: float | None
    settings: dict[str, Any]
    error: str | None
    seed: int | None
    folder: Path


@dataclass
class Claim:
    """A trial that this process has to make.

    Args:
        trial: Optuna's trial.
        number: Its number.
        seed: Seed of its training.
        overrides: Its settings as ``--set`` takes them.
        folder: Its run folder.
        lock: Descriptor that holds the trial.
    """

    trial: Any
    number: int
    seed: int
    overrides: tuple[str, ...]
    folder: Path
    lock: int = field(repr=False)


def load_optuna() -> Any:
    """Return Optuna.

    Raises:
        RefusedError: If it is not installed.
    """
    try:
        optuna = importlib.import_module("optuna")
    except ImportError:
        raise RefusedError(
            "rlzoo tune needs Optuna, which is not installed.",
            todo="Install it with: pip install 'rlzoo[tune]'",
        ) from None
    # Its messages go to stderr beside the progress bar; what matters is said by others.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Study:
    """An open study.

    Args:
        folder: Its folder; made if it is missing.
        facts: What must be the same for trials to be comparable, as plain values.
        space: What is searched.
        seed: Seed of the sampler, and of the first trial's training.
        evaluations: Number of evaluations of a whole trial.
        pruner: One of ``PRUNERS``.

    Raises:
        RefusedError: If the folder holds something else, or a study of something else.
    """

    def __init__(
        self, folder: Path, facts: Mapping[str, Any], space: Sequence[Dimension], seed: int,
        evaluations: int, pruner: str = "median",
    ) -> None:  # fmt: skip
        self.folder, self.space, self.seed = folder, tuple(space), seed
        self._optuna = load_optuna()
        plain: dict[str, Any] = json.loads(
            to_json({**facts, "space": [asdict(d) for d in space], "seed": seed})
        )
        try:
            with holding(folder / "study.lock"):
                _same_study(folder, plain)
                self._study = self._open(evaluations, pruner)
        except OSError as error:
            raise RefusedError(
                f"Study folder {folder} cannot be used: {error.strerror or error}.",
                todo="Give another one with --study.",
            ) from None

    def claim(self, total: int) -> Claim | None:
        """Return the next trial, or None if ``total`` trials have ended or are being made.

        Interrupted trials do not count; their settings come again.
        """
        trial_state = self._optuna.trial.TrialState
        with holding(self.folder / "study.lock"):
            self._bury_the_dead()
            trials = self._study.get_trials(deepcopy=False)
            counted = [t for t in trials if not t.user_attrs.get(INTERRUPTED)]
            begun = [t for t in counted if t.state != trial_state.WAITING]
            failed = [t for t in begun if t.state == trial_state.FAIL]
            if len(begun) >= total or len(failed) == len(begun) >= HOPELESS:
                return None
            # Anew for every trial: what is drawn depends on the study, not on who draws.
            sampler = self._optuna.samplers.TPESampler(seed=stream(self.seed, "tune", len(trials)))
            self._study.sampler = sampler
            trial = self._study.ask(self._distributions())
            lock = hold(self._lock_of(trial.number))
            if lock is None:
                raise FailedError(f"The lock of trial {trial.number} is held by another process.")
            seed = (self.seed + trial.number) % 2**32
            trial.set_user_attr(SEED, seed)
            overrides = tuple(d.override(trial.params[d.key]) for d in self.space)
            folder = self._folder_of(trial.number)
            return Claim(trial, trial.number, seed, overrides, folder, lock)

    def completed(self, claim: Claim, value: float) -> None:
        """Note the final return of a trial."""
        self._study.tell(claim.trial, value)
        os.close(claim.lock)

    def pruned(self, claim: Claim) -> None:
        """Note that a trial was stopped because it was worse than others."""
        self._study.tell(claim.trial, state=self._optuna.trial.TrialState.PRUNED)
        os.close(claim.lock)

    def failed(self, claim: Claim, error: str) -> None:
        """Note that a trial ended without a result."""
        claim.trial.set_user_attr(ERROR, error)
        self._study.tell(claim.trial, state=self._optuna.trial.TrialState.FAIL)
        os.close(claim.lock)

    def interrupted(self, claim: Claim) -> None:
        """Note that a trial was stopped from outside; its settings come again."""
        self._put_back(claim.trial, claim.number, "it was stopped")
        os.close(claim.lock)

    def rows(self) -> list[TrialRow]:
        """Return all trials, in the order of their numbers."""
        return [self._row(trial) for trial in self._study.get_trials(deepcopy=False)]

    # ------------------------------------------------------------------ inside

    def _open(self, evaluations: int, pruner: str) -> Any:
        optuna = self._optuna
        journal = self.folder / JOURNAL
        storages = optuna.storages
        backend = storages.journal.JournalFileBackend(str(journal), lock_obj=JournalLock(journal))
        made = {
            "median": lambda: optuna.pruners.MedianPruner(n_warmup_steps=evaluations // 4),
            "hyperband": lambda: optuna.pruners.HyperbandPruner(1, max(evaluations, 1), 3),
            "none": optuna.pruners.NopPruner,
        }[pruner]()
        try:
            return optuna.create_study(
                storage=storages.JournalStorage(backend),
                study_name="rlzoo",
                direction="maximize",
                pruner=made,
                load_if_exists=True,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise RefusedError(
                f"{journal} is damaged: {' '.join(str(error).split())[:150]}",
                todo="Give another folder with --study.",
            ) from None

    def _distributions(self) -> dict[str, Any]:
        kinds = self._optuna.distributions
        found: dict[str, Any] = {}
        for d in self.space:
            if d.kind == "choice":
                found[d.key] = kinds.CategoricalDistribution(d.values)
            elif d.kind == "int":
                found[d.key] = kinds.IntDistribution(
                    int(d.low), int(d.high), d.log, int(d.step or 1)
                )
            else:
                found[d.key] = kinds.FloatDistribution(d.low, d.high, d.log, d.step)
        return found

    def _bury_the_dead(self) -> None:
        """Note trials whose process is gone; the first time, their settings come again."""
        state = self._optuna.trial.TrialState
        for frozen in self._study.get_trials(deepcopy=False, states=(state.RUNNING,)):
            lock = hold(self._lock_of(frozen.number))
            if lock is None:
                continue
            try:
                trial = self._optuna.trial.Trial(self._study, frozen._trial_id)
                if RETRY_OF in frozen.user_attrs:
                    trial.set_user_attr(ERROR, "its process died, for the second time")
                    self._study.tell(frozen.number, state=state.FAIL)
                else:
                    self._put_back(trial, frozen.number, "its process died", retry=True)
            finally:
                os.close(lock)

    def _put_back(self, trial: Any, number: int, why: str, retry: bool = False) -> None:
        attributes = {RETRY_OF: number} if retry else None
        self._study.enqueue_trial(dict(trial.params), user_attrs=attributes)
        trial.set_user_attr(INTERRUPTED, True)
        trial.set_user_attr(ERROR, why)
        self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)

    def _row(self, trial: Any) -> TrialRow:
        state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed",
                 "RUNNING": "running", "WAITING": "waiting"}[trial.state.name]  # fmt: skip
        if trial.user_attrs.get(INTERRUPTED):
            state = "interrupted"
        value = trial.value
        if value is None and trial.intermediate_values:
            value = trial.intermediate_values[max(trial.intermediate_values)]
        choices = {d.key for d in self.space if d.kind == "choice"}
        return TrialRow(
            trial.number,
            state,
            value if value is not None and math.isfinite(value) else None,
            {k: json.loads(v) if k in choices else v for k, v in trial.params.items()},
            trial.user_attrs.get(ERROR),
            trial.user_attrs.get(SEED),
            self._folder_of(trial.number),
        )

    def _folder_of(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    def _lock_of(self, number: int) -> Path:
        return self.folder / "locks" / f"{number:04d}"


def _same_study(folder: Path, facts: dict[str, Any]) -> None:
    """Write the facts of a new study; refuse the folder of another one."""
    path = folder / FACTS
    if not path.is_file():
        others = {entry.name for entry in folder.iterdir()} - {"study.lock", "locks"}
        if others:
            raise RefusedError(
                f"{folder} holds other things, such as {min(others)}.",
                todo="Give a new folder, or that of a study, with --study.",
            )
        write_atomic(path, to_json(facts))
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise TypeError
    except (ValueError, TypeError, RecursionError):
        raise RefusedError(f"{path} is damaged.", todo="Give another --study.") from None
    differing = list(_differences(before, facts))
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise RefusedError(
            f"{folder} is a study of something else.",
            f"Changed: {'; '.join(differing[:3])}{more}.",
            "Undo that to continue it, or give a new folder with --study.",
        )


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            inner = f"{name}.{key}" if name else key
            yield from _differences(before.get(key), now.get(key), inner)
    elif before != now:
        yield f"{name}: {_short(before)} -> {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
