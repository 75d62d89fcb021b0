"""What a pickle would import, read from its opcodes: nothing is imported, built or run."""

from __future__ import annotations

import io
import pickletools
from typing import Any, Final, Protocol

COMPUTED = "(a computed name)"
MAX_PICKLES = 100

_MARK: Final = pickletools.markobject


class Readable(Protocol):
    """What :func:`pickletools.genops` reads from: an open binary file, or a mapped one."""

    def read(self, n: int = -1, /) -> bytes:
        """Return up to ``n`` bytes."""

    def readline(self) -> bytes:
        """Return the bytes to the end of the line."""

    def tell(self) -> int:
        """Return the position."""


def imports_of(source: bytes | Readable) -> list[str]:
    """Return the names that unpickling would import, sorted.

    The stack of the unpickler is followed with texts as the only values, so a name cannot be hidden
    by moving it around; one that is not a plain text in the file is shown as :data:`COMPUTED`.

    Args:
        source: One pickle or several behind each other.

    Returns:
        Names such as ``"os.system"``; the last entry says ``"(unreadable: …)"`` when the bytes are
        no pickle from some point on.
    """
    file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    found: set[str] = set()
    try:
        for _ in range(MAX_PICKLES):
            _follow(file, found)
            position = file.tell()
            if not file.read(1):
                return sorted(found)
            file.seek(position)
        return [*sorted(found), f"(more than {MAX_PICKLES} pickles)"]
    except Exception as error:  # the bytes are a stranger's
        return [*sorted(found), f"(unreadable: {type(error).__name__})"]


def _follow(file: Any, found: set[str]) -> None:
    """Follow one pickle up to its end."""
    stack: list[Any] = []  # texts, _MARK, and None for everything else
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else int(argument)] = stack[-1]
            continue
        popped = _pop(stack, opcode)
        if name in ("GLOBAL", "INST"):
            found.add(str(argument).replace(" ", "."))
        elif name == "STACK_GLOBAL":
            texts = all(isinstance(part, str) for part in popped)
            found.add(".".join(popped) if texts else COMPUTED)
        elif name.startswith("EXT"):
            found.add(f"(extension code {argument})")
        pushed: Any = argument if isinstance(argument, str) else None
        if name in ("GLOBAL", "INST", "PERSID"):
            pushed = None
        elif name.endswith("GET"):
            pushed = memo.get(int(argument or 0))
        elif name == "DUP":
            pushed = popped[0]
        stack += [_MARK if kind is _MARK else pushed for kind in opcode.stack_after]


def _pop(stack: list[Any], opcode: pickletools.OpcodeInfo) -> list[Any]:
    """Take from the stack what an opcode takes; return what lay below a mark, in order."""
    before = opcode.stack_before
    count = len(before)
    if _MARK in before or (opcode.name == "POP" and stack and stack[-1] is _MARK):
        while stack.pop() is not _MARK:
            pass
        count = before.index(_MARK) if _MARK in before else 0
    popped = stack[len(stack) - count :] if count else []
    if len(popped) < count:
        raise ValueError("the stack is empty")
    del stack[len(stack) - count :]
    return popped
