"""Where the files of the benchmarks are: inside the installed package, or in a checkout."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable


def benchmark_root() -> Traversable | None:
    """Return the folder with ``suites/`` and ``reference/``, or None if there is none.

    A wheel has it as ``rlzoo/_benchmarks``; in a checkout (and so in an editable install) it is
    ``benchmarks/`` beside the package.
    """
    package = resources.files("rlzoo")
    for folder in (package / "_benchmarks", package / ".." / "benchmarks"):
        # Other packages are known to install a top-level folder of that name.
        if (folder / "suites").is_dir() and (folder / "reference").is_dir():
            return folder
    return None
