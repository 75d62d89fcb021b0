"""The parts of a page: all that comes from files is escaped, nothing comes from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Container, Iterable, Sequence
from typing import Any

from rlzoo.report.tables import MISSING

MARK = "<!-- made by rlzoo report -->"
_MAX_TEXT = 4_000

_CSS = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0;
  --paper: #ffffff; --shade: #f6f8fa; --good: #1a7f37; --bad: #c21d27; --warn: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d;
  --paper: #0d1117; --shade: #161b22; --good: #4ac26b; --bad: #ff7b72; --warn: #d9a441; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 70rem; color: var(--ink);
  background: var(--paper); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .7rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
th { color: var(--soft); font-weight: 600; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, pre { font: .85em ui-monospace, monospace; overflow-wrap: break-word;
  white-space: pre-wrap; }
pre, .notes { background: var(--shade); padding: .7rem 1rem; border-radius: 6px; }
.notes { border-left: 4px solid var(--warn); }
figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; } svg text { font-family: sans-serif; }
summary { cursor: pointer; color: var(--soft); margin: .5rem 0; }
footer { margin-top: 2.5rem; color: var(--soft); font-size: .85rem; }
@media print { :root { --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --shade: #f4f4f4;
    --good: #060; --bad: #900; --warn: #640; }
  body { padding: 0; max-width: none; font-size: 10pt; } .wide { overflow: visible; }
  table { font-size: 8pt; } th, td, .n { white-space: normal; overflow-wrap: anywhere; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def esc(value: Any) -> Html:
    """Return anything as HTML text; ``Html`` passes as it is, None is a dash."""
    if isinstance(value, Html):
        return value
    text = MISSING if value is None else str(value)
    if len(text) > _MAX_TEXT:
        text = f"{text[:_MAX_TEXT]}… ({len(text):,} characters)"
    # Characters that UTF-8 or HTML cannot hold come from file names and damaged files.
    clean = "".join(c if _is_plain(ord(c)) else "\N{REPLACEMENT CHARACTER}" for c in text)
    return Html(html.escape(clean, quote=True))


def _is_plain(code: int) -> bool:
    return code in (9, 10) or (code >= 32 and not 127 <= code < 160 and not 0xD800 <= code < 0xE000)


def tag(name: str, content: Any, css: str = "") -> Html:
    """Return ``<name class=css>content</name>``; the content is escaped."""
    start = f'{name} class="{css}"' if css else name
    return Html(f"<{start}>{esc(content)}</{name}>")


def join(parts: Iterable[Any]) -> Html:
    """Return the parts one after the other, each escaped."""
    return Html("\n".join(esc(part) for part in parts if part))


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Container[str] = ()
) -> Html:
    """Return a table; columns named in ``right`` hold numbers."""
    css = ["n" if name in right else "" for name in columns]
    head = "".join(tag("th", name, c) for name, c in zip(columns, css, strict=True))
    lines = ["".join(tag("td", cell, c) for cell, c in zip(row, css, strict=True)) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return Html(
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n'
        "</table></div>"
    )


def facts(rows: Iterable[tuple[str, Any]]) -> Html:
    """Return a table of names and values without a header."""
    lines = "\n".join(f"<tr>{tag('th', name)}{tag('td', value)}</tr>" for name, value in rows)
    return Html(f'<div class="wide"><table>\n<tbody>\n{lines}\n</tbody>\n</table></div>')


def section(title: str, *content: Any) -> Html:
    """Return a heading and what is below it; nothing at all if there is nothing below it."""
    inner = join(content)
    return Html(f"<section>\n{tag('h2', title)}\n{inner}\n</section>") if inner else Html("")


def details(summary: str, *content: Any) -> Html:
    """Return something that opens on a click."""
    return Html(f"<details>\n{tag('summary', summary)}\n{join(content)}\n</details>")


def figure(svg: str) -> Html:
    """Return an ``<svg>`` of :mod:`rlzoo.report.svg` as a figure."""
    return Html(f"<figure>\n{svg}\n</figure>")


def notes(lines: Sequence[str], most: int = 50) -> Html:
    """Return lines that a reader must not miss."""
    if not lines:
        return Html("")
    more = [f"and {len(lines) - most:,} more"] if len(lines) > most else []
    return tag("div", join(tag("p", line) for line in [*lines[:most], *more]), "notes")


def page(title: str, *content: Any, version: str) -> str:
    """Return a whole document that needs nothing else."""
    return (
        f'<!DOCTYPE html>\n{MARK}\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{tag('title', title)}\n<style>{_CSS}</style>\n</head>\n<body>\n{join(content)}\n"
        f"<footer>{esc(f'rlzoo {version}')}</footer>\n</body>\n</html>\n"
    )
