"""What other libraries need so that their environments run quietly. One shim, one test each.

Every shim has a test in ``tests/unit/test_envs.py`` that fails once upstream no longer needs it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

_KNOWN_NOISE = ("compiler attribute 'settotalmass' is deprecated",)
_GL_LIBRARIES = {
    "egl": ("libEGL.so.1", "libEGL.so"),
    "osmesa": ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"),
}


@contextlib.contextmanager
def quiet_v4() -> Iterator[None]:
    """Silence Gymnasium's "out of date" warning for the MuJoCo v4 environments.

    They are used on purpose: published numbers are for the dynamics and rewards of v2 to v4.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore",
            message=r".*The environment \w+-v4 is out of date",
            category=DeprecationWarning,
        )
        yield


def import_quietly(module: str) -> Any:
    """Import a module without the advice that gymnasium-robotics prints about its Adroit hands.

    Raises:
        ImportError: If it cannot be imported.
    """
    silent = module.startswith("gymnasium_robotics")
    with contextlib.redirect_stderr(io.StringIO()) if silent else contextlib.nullcontext():
        return importlib.import_module(module)


def integer_joints() -> None:
    """Let Fetch, Hand and Kitchen of gymnasium-robotics run with MuJoCo 3.12 and later.

    The library asks whether a NumPy integer is in a tuple of ``mujoco.mjtJoint``. The enumeration
    does not compare equal to NumPy's integers any more, so an assertion fails while an environment
    is made. Here the library's utilities get the joint types as integers. Does nothing if they are
    not imported, or the comparison works.
    """
    utilities = sys.modules.get("gymnasium_robotics.utils.mujoco_utils")
    if utilities is None or isinstance(utilities.mujoco, _IntegerJoints):
        return
    mujoco = utilities.mujoco
    if mujoco.mjtJoint.mjJNT_HINGE != np.int32(int(mujoco.mjtJoint.mjJNT_HINGE)):
        utilities.mujoco = _IntegerJoints(mujoco)  # type: ignore[attr-defined]


class _IntegerJoints:
    """The module ``mujoco``, with integers for joint types."""

    def __init__(self, mujoco: Any) -> None:
        self._mujoco = mujoco
        members = mujoco.mjtJoint.__members__
        self.mjtJoint = SimpleNamespace(**{name: int(value) for name, value in members.items()})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mujoco, name)


def quiet_mujoco() -> None:
    """Send MuJoCo's warnings to :mod:`logging`, and drop the one about ``settotalmass``.

    MuJoCo writes its warnings to stderr and appends them to a file ``MUJOCO_LOG.TXT`` in the
    current directory; with 4.0 every HalfCheetah does so, because of an attribute in Gymnasium's
    model file. Does nothing if MuJoCo is not imported or somebody else listens already.
    """
    mujoco = sys.modules.get("mujoco")
    if mujoco is not None and mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_on_mujoco_warning)


def _on_mujoco_warning(message: str | bytes) -> None:
    text = message.decode(errors="replace") if isinstance(message, bytes) else message
    if not text.startswith(_KNOWN_NOISE):
        logger.warning("MuJoCo: %s", text.strip())


def choose_gl() -> str | None:
    """Choose how MuJoCo renders without a display: EGL, otherwise OSMesa.

    MuJoCo asks for a window by default, which fails on servers. Only on Linux, only when there is
    no display, and never against a ``MUJOCO_GL`` that is set. Must run before the first frame, and
    best before MuJoCo is imported.

    Returns:
        The value of ``MUJOCO_GL`` now; None if it is unset.
    """
    chosen = os.environ.get("MUJOCO_GL")
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if chosen or display or not sys.platform.startswith("linux"):
        return chosen or None
    for backend, libraries in _GL_LIBRARIES.items():
        if any(_loads(library) for library in libraries):
            os.environ["MUJOCO_GL"] = backend
            return backend
    return None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
