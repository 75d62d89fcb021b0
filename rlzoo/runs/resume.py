"""``rlzoo resume``: a run goes on from its newest intact checkpoint, or says why it does not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlzoo.agents.registry import get_agent
from rlzoo.config.schema import run_arguments
from rlzoo.core import checkpoint
from rlzoo.core.checkpoint import Checkpoint, library_versions
from rlzoo.core.device import configure_cpu, resolve_device
from rlzoo.errors import RefusedError
from rlzoo.runs.directory import RunDirectory
from rlzoo.runs.progress import Progress, Silent
from rlzoo.runs.train import TrainRequest, environments, settings_of
from rlzoo.runs.training import Training, TrainResult, unit_of

# What may differ without changing what is learned up to a given step.
_FREE_SETTINGS = frozenset(
    f"run.{name}"
    for name in (
        "steps",
        "keep_checkpoints",
        "env_timeout",
        "video",
        "pictures",
        "final_eval_episodes",
        "then_dream",
        "dream_model",
    )
)
# What a run of an earlier version has where it could not set something yet.
_DEFAULTS = {f"run.{name}": known.default for name, known in run_arguments().items()}
_FREE_VERSIONS = frozenset({"python"})
_SHOWN = 4


@dataclass(frozen=True)
class ResumeRequest:
    """What ``rlzoo resume`` was asked for; None leaves everything as it was.

    Args:
        run_dir: Folder of the run.
        agent: Name of the agent, to be sure; it must be that of the run.
        steps: New length of the run.
        overrides: ``"key=value"`` strings; a change needs ``force``.
        device: Another device than that of the run.
        threads: Another number of torch threads.
        force: Go on although settings, data, versions or code are others.
        command: The command line, for the record.
    """

    run_dir: Path
    agent: str | None = None
    steps: int | None = None
    overrides: tuple[str, ...] = ()
    device: str | None = None
    threads: int | None = None
    force: bool = False
    command: str = ""


def resume(request: ResumeRequest, progress: Progress | None = None) -> TrainResult | None:
    """Continue a run.

    Returns:
        As :func:`rlzoo.runs.train.train`; None if the run has finished and no more steps are
        wanted.

    Raises:
        RefusedError: If it cannot be continued, or not as the run that it was.
        StoppedError, FailedError: As ``train``.
    """
    progress = progress or Silent()
    with RunDirectory.open(request.run_dir) as run:
        manifest = _manifest_of(run)
        original = _original(request, run, manifest)
        spec = get_agent(original.agent)
        device = resolve_device(original.device)
        threads = configure_cpu(original.threads)
        config = settings_of(original, spec, device.type)
        found, note = checkpoint.latest(run.checkpoints)
        if note:
            progress.message(note)
        steps = config.run_settings().steps
        if run.result.is_file() and found is not None and found.step >= steps:
            progress.message(
                f"{run.path} has already finished its {found.step:,} {unit_of(spec)}; "
                "--steps with a larger number continues it."
            )
            return None
        with environments(config, original.seed) as vec:
            training = Training(
                run,
                spec,
                config,
                vec,
                original.seed,
                str(device),
                original.command,
                progress,
                found,
            )
            differences = [] if found is None else _differences(found, training.meta)
            _refuse_differences(run, differences, request.force)
            training.manifest = _with_history(
                training.manifest, manifest, found, differences, request
            )
            where = (
                "its beginning: there is no checkpoint" if found is None else f"step {found.step:,}"
            )
            progress.message(
                f"{spec.name} on {config.env_id} goes on from {where}, to {steps:,} "
                f"{unit_of(spec)}, device {device}, {threads} threads. "
                f"{_promise(device.type, config, differences)}"
            )
            return training.run_to_end()


def _manifest_of(run: RunDirectory) -> dict[str, Any]:
    try:
        manifest = json.loads(run.manifest.read_text(encoding="utf-8"))
        for name, kind in (("agent", str), ("env", str), ("preset", str), ("seed", int)):
            if not isinstance(manifest[name], kind):
                raise TypeError(name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RefusedError(
            f"{run.manifest} is not understood ({type(error).__name__}: {error}).",
            todo="Start again in a new folder.",
        ) from None
    return dict(manifest)


def _original(
    request: ResumeRequest, run: RunDirectory, manifest: Mapping[str, Any]
) -> TrainRequest:
    """Return the request that the run was started with, and what is new."""
    if request.agent not in (None, manifest["agent"]):
        raise RefusedError(
            f"{run.path} is a run of {manifest['agent']}, not of {request.agent}.",
            todo=f"rlzoo resume {run.path}",
        )
    machine = manifest.get("machine")
    threads = machine.get("torch_threads") if isinstance(machine, dict) else None
    return TrainRequest(
        agent=manifest["agent"],
        env_id=manifest["env"],
        preset=manifest["preset"],
        seed=manifest["seed"],
        steps=request.steps,
        overrides=request.overrides,
        config_file=run.config,
        device=request.device or str(manifest.get("device", "auto")),
        threads=request.threads or (threads if isinstance(threads, int) else None),
        command=request.command,
    )


def _differences(found: Checkpoint, now: Mapping[str, Any]) -> list[str]:
    """Return what changed since the checkpoint, one line each."""
    then = found.meta
    lines = [
        f"{name}: {then.get(name)!r} -> {now[name]!r}"
        for name in ("class", "env", "seed", "dataset_fingerprint", "encoder_sha256", "code")
        if then.get(name) != now[name]
    ]
    before, after = {**_DEFAULTS, **(then.get("settings") or {})}, now["settings"]
    lines += [
        f"{name}: {before.get(name)!r} -> {after.get(name)!r}"
        for name in sorted({*before, *after} - _FREE_SETTINGS)
        if before.get(name) != after.get(name)
    ]
    versions = library_versions()
    lines += [
        f"{name}: {found.versions.get(name)} -> {versions.get(name)}"
        for name in sorted({*found.versions, *versions} - _FREE_VERSIONS)
        if found.versions.get(name) != versions.get(name)
    ]
    return lines


def _refuse_differences(run: RunDirectory, differences: list[str], force: bool) -> None:
    if not differences or force:
        return
    more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    raise RefusedError(
        f"{run.path} would not go on as the run that it was.",
        f"Changed: {'; '.join(differences[:_SHOWN])}{more}.",
        "Undo that, or accept it with --force; the manifest then says so.",
    )


def _with_history(
    manifest: Mapping[str, Any],
    before: Mapping[str, Any],
    found: Checkpoint | None,
    differences: list[str],
    request: ResumeRequest,
) -> dict[str, Any]:
    """Keep how the run was started, and add that it was continued."""
    kept = {name: before[name] for name in ("command", "commit", "versions") if name in before}
    entry = {
        "step": 0 if found is None else found.step,
        "command": request.command,
        "commit": manifest["commit"],
        "versions": manifest["versions"],
        "device": manifest["device"],
        "forced": differences,
    }
    earlier = before.get("resumed")
    return {
        **manifest,
        **kept,
        "resumed": [*(earlier if isinstance(earlier, list) else []), entry],
    }


def _promise(device_type: str, config: Any, differences: list[str]) -> str:
    """Say what may be expected of the rest, compared with a run that was never stopped."""
    if differences:
        return "Settings, data or code are others than before, as --force allows."
    if device_type == "cpu":
        return "Bit for bit as without the interruption."
    if config.run_settings().deterministic:
        return "Bit for bit as without the interruption if it is the same GPU."
    return "Statistically equivalent; exact only with --deterministic."
