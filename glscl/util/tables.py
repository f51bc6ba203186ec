"""Tables of results as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as a Markdown table; numbers with up to two decimals."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            value = f"{value:.2f}".rstrip("0").rstrip(".")
        return str(value).replace("|", "\\|")

    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[cell(value) for value in row.values()] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
