"""All tasks by name."""

from __future__ import annotations

from rlzoo.core.mpc_tasks import pets
from rlzoo.core.mpc_tasks.base import MpcTask
from rlzoo.core.mpc_tasks.pendulum import PENDULUM
from rlzoo.errors import RefusedError, did_you_mean

_TASKS: dict[str, MpcTask] = {}


def register_task(task: MpcTask) -> MpcTask:
    """Make a task known by its name; returns it.

    Raises:
        RefusedError: If another task has that name.
    """
    if _TASKS.setdefault(task.name, task) != task:
        raise RefusedError(
            f"There is a task {task.name!r} already.", todo="Give yours another name."
        )
    return task


def known_tasks() -> list[str]:
    """Return the names of all tasks."""
    return sorted(_TASKS)


def find_task(name: str) -> MpcTask | None:
    """Return the task of that name, or None."""
    return _TASKS.get(name)


def get_task(name: str) -> MpcTask:
    """Return the task of that name.

    Raises:
        RefusedError: If there is none.
    """
    found = find_task(name)
    if found is None:
        raise RefusedError(
            f"There is no task {name!r}. {did_you_mean(name, _TASKS)}".strip(),
            f"Known: {', '.join(known_tasks())}.",
            "Register it first: rlzoo.core.mpc_tasks.register_task(MpcTask(…)).",
        )
    return found


for _task in (PENDULUM, *pets.TASKS):
    register_task(_task)
