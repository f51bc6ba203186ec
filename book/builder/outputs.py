"""Whether the rendered page of a chapter shows every output of its cells."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup

from book.builder import sources

REMOVED = {"remove-output", "remove-cell"}


def check(tree: Path, pages: Path) -> Iterator[str]:
    """Every staged chapter below ``tree`` of whose outputs ``pages`` shows fewer or more.

    MyST-NB leaves out a cell without code together with its output, without a warning.
    """
    for path in sorted(tree.glob("notebooks/*.ipynb")):
        cells = [cell for cell in sources.read(path).cells if _shows(cell)]
        page = pages / "notebooks" / f"{path.stem}.html"
        soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        found = len(soup.select("div.cell_output"))
        if found != len(cells):
            yield f"{path.stem}: {len(cells)} cells have an output, its page shows {found}"


def _shows(cell: Any) -> bool:
    """Whether a cell has an output that a reader sees; values for the prose are not."""
    if cell.cell_type != "code" or REMOVED & set(cell.metadata.get("tags", ())):
        return False
    return any(
        not any(
            kind.startswith("application/papermill") for kind in output.get("data", ())
        )
        for output in cell.outputs
    )
