"""Tables of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells in words."""
    return "".join([_line(columns), "|" + "---|" * len(columns) + "\n", *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
