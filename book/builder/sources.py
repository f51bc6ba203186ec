"""The committed notebooks: find, read and check them, update their bootstrap cell."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

from book.builder import address, parameters
from book.builder.project import BuildError, Project
from glscl.util.files import atomic_path

RUNTIME = ("<!-- runtime -->", "<!-- /runtime -->")
MAX_COLUMNS = 79
MAX_LINES = 20


@dataclass(frozen=True)
class Source:
    """One committed notebook, its code, and the parameters that it declares."""

    name: str
    path: Path
    code: str
    defaults: parameters.Values


def read(path: Path) -> NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, AttributeError, nbformat.ValidationError) as error:
        raise BuildError(f"{path.name} is not a readable notebook: {error}.") from None


def write(notebook: NotebookNode, path: Path) -> None:
    """Write through a temporary file, so that an interrupted run leaves no partial file."""
    with atomic_path(path) as partial:
        nbformat.write(notebook, partial)


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if tag in tags(cell)]


def chapters(project: Project) -> list[str]:
    """Names of the notebooks in the table of contents, in reading order."""
    toc = yaml.safe_load((project.root / "_toc.yml").read_text(encoding="utf-8"))
    names = [Path(f).name for f in _files(toc) if Path(f).parts[0] == "notebooks"]
    for name in names:
        if not (project.notebooks / f"{name}.ipynb").is_file():
            raise BuildError(f"_toc.yml names notebooks/{name}, which does not exist.")
    for path in sorted(project.notebooks.glob("*.ipynb")):
        if path.stem not in names:
            raise BuildError(f"{project.show(path)} is missing from _toc.yml.")
    return names


def _files(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key in ("root", "file"))
        for value in node.values():
            yield from _files(value)
    elif isinstance(node, list):
        for value in node:
            yield from _files(value)


def load(project: Project) -> list[Source]:
    """Every chapter, checked; one ``BuildError`` lists all faults."""
    found, problems = [], []
    bootstrap = bootstrap_cell(project, address.configured(project))
    for name in chapters(project):
        path = project.notebooks / f"{name}.ipynb"
        notebook = read(path)
        wrong = [*unclean(notebook), *misplaced(notebook, bootstrap)]
        problems += [f"{project.show(path)}: {what}" for what in wrong]
        cells = tagged(notebook, "parameters")
        if len(cells) == 1:
            values = parameters.declared(cells[0].source, project.show(path))
            code = "\n".join(c.source for c in notebook.cells if _is_python(c))
            found.append(Source(name, path, code, values))
    if problems:
        raise BuildError("\n".join(problems))
    return found


def _is_python(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and not cell.source.startswith(("%", "!"))


def unclean(notebook: NotebookNode) -> Iterator[str]:
    """Outputs and run metadata, which a committed notebook must not have."""
    if {"papermill", "widgets"} & set(notebook.metadata):
        yield "holds papermill or widget metadata; run nbstripout --keep-id on it"
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if cell.outputs or cell.execution_count is not None:
            yield f"cell {cell.id} holds outputs; run nbstripout --keep-id on it"
        if {"papermill", "execution"} & set(cell.metadata):
            yield f"cell {cell.id} holds run metadata; run nbstripout --keep-id on it"


def misplaced(notebook: NotebookNode, bootstrap: str) -> Iterator[str]:
    """Departures from the structure that all chapters share."""
    for tag in ("bootstrap", "parameters"):
        count = len(tagged(notebook, tag))
        if count != 1:
            yield f"expected one cell tagged `{tag}`, found {count}"
    if any(cell.source != bootstrap for cell in tagged(notebook, "bootstrap")):
        yield "the bootstrap cell differs; run `python book/build.py bootstrap`"
    text = "".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    if [text.count(mark) for mark in RUNTIME] != [1, 1]:
        yield f"expected one `{RUNTIME[0]}...{RUNTIME[1]}` in the markdown"
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        lines = [line for line in cell.source.splitlines() if line.strip()]
        if any(len(line) > MAX_COLUMNS for line in lines):
            yield f"cell {cell.id} is wider than {MAX_COLUMNS} columns"
        may_be_long = {"bootstrap", "parameters"} & set(
            tags(cell)
        ) or cell.id == "imports"
        if len(lines) > MAX_LINES and not may_be_long:
            yield f"cell {cell.id} has {len(lines)} lines, at most {MAX_LINES} are allowed"


def bootstrap_cell(project: Project, repository: str, commit: str = "") -> str:
    """The first code cell of every notebook, with the project's address and commit."""
    code = (project.book / "bootstrap.py").read_text(encoding="utf-8").strip()
    code = code.replace('REPOSITORY = ""', f'REPOSITORY = "{repository}"')
    return code.replace('COMMIT = ""', f'COMMIT = "{commit}"')


def fill_bootstrap(notebook: NotebookNode, code: str) -> None:
    """Make ``code`` the first code cell of a notebook."""
    for cell in tagged(notebook, "bootstrap"):
        cell.source = code


def update_bootstrap(project: Project) -> Iterator[str]:
    """Write the bootstrap cell into every notebook; yields the names of changed ones.

    Its address is the configured one, so that it is the same in every clone.
    """
    code = bootstrap_cell(project, address.configured(project))
    for path in sorted(project.notebooks.glob("*.ipynb")):
        notebook = read(path)
        cells = tagged(notebook, "bootstrap")
        if not cells:
            cell = nbformat.v4.new_code_cell(id="bootstrap")
            cell.metadata["tags"] = ["bootstrap", "hide-input"]
            place = next(
                (i for i, c in enumerate(notebook.cells) if c.cell_type == "code"),
                len(notebook.cells),
            )
            notebook.cells.insert(place, cell)
            cells = [cell]
        if any(cell.source != code for cell in cells):
            fill_bootstrap(notebook, code)
            write(notebook, path)
            yield project.show(path)
