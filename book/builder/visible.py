"""What a page shows of a chapter's code: the idea; set-up and formatting are folded.

The committed and the downloadable notebooks keep every line. On the page

- values stored for the prose (``report.glue``) and tables are cut from the code,
- the code of a figure stands folded below the code that computes what it draws,
- parameters, imports, checks and claims are folded; the bootstrap cell is left out.

``statements.py`` says which line is for what.
"""

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from itertools import takewhile

from nbformat import NotebookNode

from book.builder import sources, statements
from book.builder.execute import INJECTED
from book.builder.project import Project
from book.builder.sources import tagged, tags

MAX_LINES = 15  # of code that a cell shows without a click
HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
#: Captions of folded code.
CAPTIONS = {
    "parameters": "The parameters of this page, and their values in this run",
    "imports": "Imports",
    "check": "The code of this check",
    "claim": "How this claim is tested",
    "figure": "How this figure is drawn",
    "hidden": "How this is computed",
}


def fold(notebook: NotebookNode) -> NotebookNode:
    """A copy of a chapter with the code that its page shows, and outputs as they are."""
    shown = deepcopy(notebook)
    _merge_parameters(shown)
    code = [cell for cell in shown.cells if _is_open(cell)]
    parts = dict(zip((cell.id for cell in code), statements.parts(code), strict=True))
    cells: list[NotebookNode] = []
    for cell in shown.cells:
        if cell.id in parts:
            cells += _shown(cell, parts[cell.id])
        elif "bootstrap" not in tags(cell):
            _name_hidden(cell)
            cells.append(cell)
    shown.cells = cells
    return shown


def check(project: Project) -> Iterator[str]:
    """Cells of the chapters that show too many lines."""
    for name in sources.chapters(project):
        path = project.notebooks / f"{name}.ipynb"
        for cell in fold(sources.read(path)).cells:
            count = len(lines(cell))
            if count > MAX_LINES:
                yield (
                    f"{project.show(path)}: cell {cell.id} shows {count} lines, at most "
                    f"{MAX_LINES} are allowed"
                )


def lines(cell: NotebookNode) -> list[str]:
    """The lines of code that a folded chapter shows of a cell without a click."""
    if cell.cell_type != "code" or HIDDEN & set(tags(cell)):
        return []
    return [line for line in cell.source.splitlines() if line.strip()]


def _is_open(cell: NotebookNode) -> bool:
    """Whether a cell is Python that the notebook itself does not hide."""
    return (
        cell.cell_type == "code"
        and not HIDDEN & set(tags(cell))
        and "bootstrap" not in tags(cell)
        and not cell.source.startswith(("%", "!"))
    )


def _merge_parameters(notebook: NotebookNode) -> None:
    """Fold the parameters and the values of this run into one cell."""
    for cell in tagged(notebook, "parameters"):
        for given in tagged(notebook, INJECTED):
            cell.source += f"\n\n# In this run\n{given.source}"
            notebook.cells.remove(given)
        _fold(cell, "parameters")


def _fold(cell: NotebookNode, kind: str) -> None:
    """Fold the code of a cell under the caption of its kind."""
    cell.metadata["tags"] = sorted({*tags(cell), "hide-input"})
    prompts = {f"code_prompt_{state}": CAPTIONS[kind] for state in ("show", "hide")}
    cell.metadata["mystnb"] = prompts


def _name_hidden(cell: NotebookNode) -> None:
    """Say what the code is for that the notebook itself folds."""
    if "hide-input" not in tags(cell) or "mystnb" in cell.metadata:
        return
    claim = "claims.claim(" in cell.source or "evidence." in cell.source
    _fold(cell, "claim" if claim else "hidden")
    if cell.source.startswith("report.provenance("):
        cell.metadata["tags"].append("remove-input")


def _shown(cell: NotebookNode, found: Sequence[statements.Part]) -> list[NotebookNode]:
    """One cell, or two: what is computed, and folded below it how it is drawn."""
    if cell.id.startswith("imports") or "check" in tags(cell):
        _fold(cell, "check" if "check" in tags(cell) else "imports")
        return [cell]
    text = cell.source.splitlines()
    kept = _text(text, found, ("code",))
    folded = _text(text, found, ("figure", "claim"))
    kind = "figure" if any(part.kind == "figure" for part in found) else "claim"
    if not (kept or folded):
        # The code stays, out of sight: MyST-NB drops a cell without code, and its output.
        cell.metadata["tags"] = [*tags(cell), "remove-input"]
        return [cell]
    cell.source = kept or folded
    if kept and folded:
        below = deepcopy(cell)
        below.id, below.source = f"{cell.id}-drawn", folded
        _fold(below, kind)
        outputs = cell.get("outputs", [])
        cell.outputs = [o for o in outputs if o.output_type == "stream"]
        below.outputs = [o for o in outputs if o.output_type != "stream"]
        return [cell, below]
    if folded:
        _fold(cell, kind)
    return [cell]


def _text(
    text: Sequence[str], found: Iterable[statements.Part], kinds: Sequence[str]
) -> str:
    """The lines of these kinds; at most two empty lines stand between them."""
    taken: list[str] = []
    for part in found:
        here = text[part.start : part.end]
        if part.kind not in kinds:  # the empty lines above it remain
            here = list(takewhile(lambda line: not line.strip(), here))
        taken += here
    tidy = [
        line
        for place, line in enumerate(taken)
        if line.strip() or any(x.strip() for x in taken[max(0, place - 2) : place])
    ]
    return "\n".join(tidy).strip("\n")
