"""One trial: a training in a run folder of its own, broken off when others were better."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rlzoo.core.safe_files import remove, write_json_atomic
from rlzoo.errors import RlzooError
from rlzoo.runs.progress import Progress
from rlzoo.runs.signals import StoppedError
from rlzoo.runs.train import TrainRequest, train
from rlzoo.tune.study import Claim, Study, TrialRow


@dataclass(frozen=True)
class Plan:
    """What every trial of a study has in common; goes to other processes.

    Args:
        request: The training, without folder, seed and the settings that are searched.
        steps: Its length.
        eval_freq: Steps between evaluations.
        trials: Number of trials of the whole study.
        deadline: ``time.time()`` after which no trial begins; None for never.
        owner: Process that must be alive for the work to go on; None for no other.
    """

    request: TrainRequest
    steps: int
    eval_freq: int
    trials: int
    deadline: float | None = None
    owner: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether no further trial may begin."""
        late = self.deadline is not None and time.time() >= self.deadline
        return late or self.is_orphan

    @property
    def is_orphan(self) -> bool:
        """Whether the process that wanted the work is gone."""
        return self.owner is not None and os.getppid() != self.owner


class TrialProgress:
    """Passes the bar on, with the trial's number, and messages only the first time.

    Args:
        inner: Who shows it.
    """

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self._said: set[str] = set()
        self.label = ""

    def message(self, text: str) -> None:
        """Say a line unless it was said for an earlier trial."""
        if text not in self._said:
            self._said.add(text)
            self._inner.message(text)

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin the bar of a trial."""
        self._inner.start(f"{self.label}, {label}", total, unit)

    def update(self, done: int, note: str = "") -> None:
        """Move the bar."""
        self._inner.update(done, note)

    def stop(self) -> None:
        """End the bar."""
        self._inner.stop()


def work(plan: Plan, study: Study, progress: Progress, tell: Callable[[str], None]) -> None:
    """Make trials until there are enough.

    Args:
        plan: What to do.
        study: Where the trials come from.
        progress: Bar and messages of the trainings.
        tell: Gets one line per trial that ended.

    Raises:
        StoppedError: If a signal asked for an end.
    """
    shown = TrialProgress(progress)
    while not plan.is_over and (claim := study.claim(plan.trials)) is not None:
        shown.label = f"trial {claim.number}"
        make_trial(plan, study, claim, shown)
        tell(line_of(study.rows()[claim.number]))


def make_trial(plan: Plan, study: Study, claim: Claim, progress: Progress) -> None:
    """Train once, and note how it ended.

    Raises:
        StoppedError: If a signal asked for an end.
    """
    judge = _Judge(plan, claim)
    base = plan.request
    # A hundred episodes at the end, as on Atari, are for a result and not for every trial; nor are
    # other scores than the one that is compared.
    shorter = ("run.final_eval_episodes=null", "run.eval_splits={}")
    overrides = (*shorter, *base.overrides, *claim.overrides)
    request = replace(base, run_dir=claim.folder, seed=claim.seed, overrides=overrides)
    try:
        result = train(request, progress, judge)
    except StoppedError:
        if not judge.wants_less:
            study.interrupted(claim)
            raise
        study.pruned(claim)
    except Exception as error:  # a trial that fails is a result; the study goes on
        study.failed(claim, reason_of(error))
    except BaseException:
        study.interrupted(claim)
        raise
    else:
        value = objective(result.record, result.curve)
        if math.isfinite(value):
            study.completed(claim, value)
        else:
            study.failed(claim, f"its final return is {value}")
    finally:
        _tidy(study.rows()[claim.number])


def objective(record: dict[str, Any], curve: list[tuple[int, float, float]]) -> float:
    """Return the mean of the two evaluations of the final policy.

    These are the last point of the curve and the evaluation after the training, each of
    ``eval_episodes`` episodes of its own.
    """
    last = curve[-1][1] if curve else math.nan
    return (float(record["final"]["return_mean"]) + last) / 2


def reason_of(error: Exception) -> str:
    """Return one line that says why a trial failed."""
    text = error.args[0] if isinstance(error, RlzooError) else error
    name = "" if isinstance(error, RlzooError) else f"{type(error).__name__}: "
    return f"{name}{' '.join(str(text).split())}"[:300]


def line_of(row: TrialRow) -> str:
    """Return what is said about a trial that ended."""
    value = "" if row.value is None else f" return {row.value:,.1f},"
    settings = ", ".join(f"{key}={_short(v)}" for key, v in row.settings.items())
    reason = f" ({row.error})" if row.error else ""
    return f"trial {row.number}: {row.state}{reason},{value} {settings}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class _Judge:
    """Hears every evaluation of a trial, and says whether it goes on."""

    def __init__(self, plan: Plan, claim: Claim) -> None:
        self.plan, self.trial = plan, claim.trial
        self.wants_less = False

    def __call__(self, step: int, mean: float) -> bool:
        if self.plan.is_orphan:
            return False
        # At its end a trial has a result, whatever others reached.
        if step >= self.plan.steps or not math.isfinite(mean):
            return True
        # Rollouts end at different steps; the evaluation's number is common to all trials.
        self.trial.report(mean, step // self.plan.eval_freq)
        self.wants_less = self.trial.should_prune()
        return not self.wants_less


def _tidy(row: TrialRow) -> None:
    """Add what the study knows about a run; its checkpoints, which nobody needs, go."""
    if not row.folder.is_dir():
        return
    remove(row.folder / "checkpoints")
    facts = {name: value for name, value in asdict(row).items() if name != "folder"}
    write_json_atomic(Path(row.folder) / "trial.json", facts)
