"""``rlzoo doctor``."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Check what works on this machine; exit code 1 if something is broken."""
    from rlzoo.runs.doctor import examine

    broken = 0
    for check in examine():
        broken += not check.ok
        print(f"{'ok    ' if check.ok else 'BROKEN'}  {check.name:<25}  {check.detail}")
    if broken:
        print(f"\n{broken} broken.")
        raise typer.Exit(1)
