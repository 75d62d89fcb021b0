"""The Qt 5 libraries that Procgen's levels are drawn with, from the system or from a wheel.

envpool's Procgen extension is linked against ``libQt5Core.so.5`` and ``libQt5Gui.so.5`` and does
not bring them. The wheel ``PyQt5-Qt5`` has both; loaded before the extension they are found by
their name, and draw the same frames to the bit. They still need ``libGL`` and ``glib`` of the
system.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import sys
from pathlib import Path

from rlzoo.errors import RefusedError

LIBRARIES = ("libQt5Core.so.5", "libQt5Gui.so.5")
"""In the order in which they are to be loaded."""

WHEEL = "PyQt5-Qt5"
"""The distribution that has them."""


@functools.cache
def load_qt(what: str = "Procgen") -> str:
    """Load Qt 5 into this process; must be done before envpool's Procgen is imported.

    The system's libraries come first, as whatever else uses Qt in this process expects those.
    Does nothing but on Linux: elsewhere envpool finds its Qt by other means.

    Args:
        what: What needs it, for the message.

    Returns:
        Where it is from, for people.

    Raises:
        RefusedError: If it cannot be loaded.
    """
    if not sys.platform.startswith("linux"):
        return "as envpool finds it"
    try:
        # This one brings the other; the other alone would stay, and mix with that of the wheel.
        ctypes.CDLL(LIBRARIES[1])
    except OSError as error:
        return _load_wheel(what, error)
    return "Qt 5 of the system"


def _load_wheel(what: str, problem: OSError) -> str:
    folder = wheel_folder()
    if folder is not None:
        try:
            for name in LIBRARIES:
                ctypes.CDLL(str(folder / name))
        except OSError as error:
            problem = error
        else:
            return f"{WHEEL} {importlib.metadata.version(WHEEL)}"
    missing = str(problem).partition(":")[0]
    if missing not in LIBRARIES and folder is not None:  # The wheel is there; what it needs is not.
        raise RefusedError(
            f"{what} needs Qt 5, whose wheel {WHEEL} cannot be loaded: {problem}.",
            "It needs libGL and glib of the system.",
            "Install them with: apt install libgl1 libglib2.0-0",
        ) from problem
    raise RefusedError(
        f"{what} needs Qt 5: {problem}.",
        f"It comes with rlzoo[coinrun] as {WHEEL}, or with the system.",
        'pip install "rlzoo[coinrun]" and apt install libgl1 libglib2.0-0; '
        "or only apt install libqt5core5a libqt5gui5",
    ) from problem


def wheel_folder() -> Path | None:
    """Return the folder with the libraries of the wheel; None if it is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(WHEEL) or []:
            library = Path(str(file.locate()))
            if library.name == LIBRARIES[0] and library.exists():
                return library.parent
    return None
