"""Modules of others whose ``assert`` statements are their checks, kept under ``python -O``."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType


class _AssertingLoader(SourceFileLoader):
    """Compiles with assertions, and past the cache, whose files for ``-O`` have none."""

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code of a module with its assertions."""
        path = self.get_filename(fullname)
        code: CodeType = compile(self.get_data(path), path, "exec", dont_inherit=True, optimize=0)
        return code


@functools.cache
def with_asserts(name: str) -> ModuleType:
    """Return a module whose assertions are executed, whatever the interpreter was told.

    Without ``-O`` that is the module itself, otherwise a second copy of it that is not in
    ``sys.modules``: for modules of functions, not for classes that others compare.

    Args:
        name: Full name of a module that is written in Python.
    """
    found = importlib.util.find_spec(name)
    if __debug__ or found is None or found.origin is None:
        return importlib.import_module(name)
    loader = _AssertingLoader(name, found.origin)
    spec = importlib.util.spec_from_file_location(name, found.origin, loader=loader)
    if spec is None:
        return importlib.import_module(name)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
