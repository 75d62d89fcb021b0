"""One entrance for every kind of data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from rlzoo.data.transitions import Transitions
from rlzoo.data.validate import drop_bad, repair, validate
from rlzoo.errors import RefusedError, did_you_mean

PICKLE_SUFFIXES = (".pkl", ".pickle")

if TYPE_CHECKING:
    from stable_baselines3.common.buffers import ReplayBuffer


def load_dataset(
    source: str | Path | Transitions | ReplayBuffer,
    *,
    repair_actions: bool = False,
    drop_bad_episodes: bool = False,
    batch_size: int | None = None,
    horizon: int | None = None,
    trust_pickle: bool = False,
    **options: Any,
) -> Transitions:
    """Load and validate a data set.

    Args:
        source: A Minari id (``rlzoo/hopper/medium-v0`` or any in the local store), the path of a
            Minari folder, the path of a D4RL ``.hdf5`` file, an SB3 replay buffer or the path of
            its ``.pkl``, or transitions.
        repair_actions: Clip actions to their bounds (``--repair clip``).
        drop_bad_episodes: Drop episodes with NaN or Inf (``--drop-bad``).
        batch_size: Fewer transitions are refused.
        horizon: No episode with that many steps is refused.
        trust_pickle: Unpickle a ``.pkl``, which runs what its author put in; refused otherwise.
        **options: For the loader of this kind: ``time_limit``, ``ends``, ``env_id``,
            ``action_limit`` (D4RL), ``env_id``, ``dataset_id``, ``actions_scaled``, ``time_limit``
            (replay buffer).

    Returns:
        Transitions with everything that was reconstructed or repaired in ``metadata["notes"]``.

    Raises:
        RefusedError: If it is missing, damaged or invalid; the message says what to do.
    """
    fix = repair_actions or drop_bad_episodes
    if is_pickle(source):
        source = _unpickled(source, trust_pickle, options)
    t = _load(source, check=not fix, options=options)
    if drop_bad_episodes:
        t = drop_bad(t)
    if repair_actions:
        t = repair(t, "clip")
    if fix or isinstance(source, Transitions) or batch_size is not None or horizon is not None:
        t = validate(t, batch_size=batch_size, horizon=horizon)
    return t


def is_pickle(source: Any) -> TypeGuard[str | Path]:
    """Return whether a source is the path of a pickle: by its first bytes, or by its suffix."""
    if not isinstance(source, (str, Path)):
        return False
    path = Path(source).expanduser()
    try:
        with path.open("rb") as file:
            head = file.read(2)
    except (OSError, ValueError):  # not a file; a name with a NUL
        return False
    return path.suffix in PICKLE_SUFFIXES or (head[:1] == b"\x80" and head[1:] <= b"\x0f")


def _unpickled(source: str | Path, trust_pickle: bool, options: dict[str, Any]) -> ReplayBuffer:
    from rlzoo.data.sb3_buffers import load_replay_buffer

    path = Path(source).expanduser()
    options.setdefault("dataset_id", path.stem)
    return load_replay_buffer(path, trust_pickle)


def _load(source: Any, check: bool, options: dict[str, Any]) -> Transitions:
    if isinstance(source, (str, Path)):
        return _load_path_or_id(source, check, options)
    if isinstance(source, Transitions):
        _no_options(options, "transitions")
        return source
    from rlzoo.data.sb3_buffers import from_replay_buffer

    return from_replay_buffer(source, check=check, **options)


def _load_path_or_id(source: str | Path, check: bool, options: dict[str, Any]) -> Transitions:
    from rlzoo.data import d4rl, minari_io

    path = Path(source).expanduser()
    is_id = isinstance(source, str) and minari_io.is_id(source)
    if is_id and (minari_io.exists(str(source)) or not path.exists()):
        _no_options(options, "a Minari data set")
        return minari_io.load(str(source), check=check)
    if path.suffix in (".hdf5", ".h5") or path.is_file():
        return d4rl.load(path, check=check, **options)
    if path.is_dir():
        _no_options(options, "a Minari data set")
        return minari_io.load_folder(path, check=check)
    known = minari_io.local_ids()
    raise RefusedError(
        f"There is no data set {str(source)!r}. {did_you_mean(str(source), known)}".rstrip(),
        "Allowed: a Minari id such as rlzoo/hopper/medium-v0, a Minari folder, a D4RL .hdf5 file.",
        "rlzoo dataset list shows what is here; rlzoo collect makes one.",
    )


def _no_options(options: dict[str, Any], kind: str) -> None:
    if options:
        raise RefusedError(
            f"{', '.join(options)} cannot be set for {kind}.", "It says all of this itself."
        )
