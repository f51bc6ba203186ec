"""Notebooks for Colab: plain Markdown, a GPU asked for, the address filled in.

They lie in ``_build/colab`` and are published as the branch ``colab``, which the launch
buttons of the pages open.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from nbformat import NotebookNode

from book.builder import address, records, sources
from book.builder.downloads import PlainMarkdown
from book.builder.project import BuildError, Project

README = """\
# Notebooks for Colab

Made from commit {commit} of {repository}, one for each chapter of the book.

{chapters}
"""


def link(project: Project, name: str) -> str:
    """The address at which Colab opens a chapter."""
    path = address.repository(project).partition("github.com/")[2]
    branch = address.COLAB_BRANCH
    return f"{address.COLAB}/github/{path}/blob/{branch}/notebooks/{name}.ipynb"


def write_all(project: Project) -> Path:
    """Write the notebooks of all chapters and a page that lists them; their folder."""
    folder = project.build / "colab"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "notebooks").mkdir(parents=True)
    repository, commit = address.repository(project), address.commit(project)
    code = sources.bootstrap_cell(project, repository, commit)
    markdown, entries = PlainMarkdown(project), records.entries(project)
    lines = []
    for name in sources.chapters(project):
        notebook = sources.read(project.notebooks / f"{name}.ipynb")
        if name in entries:
            records.fill_runtime(notebook, entries[name])
        badge = ""
        if address.on_colab(project):
            badge = f"[![Open in Colab]({address.COLAB_BADGE})]({link(project, name)})"
        convert(notebook, name, markdown, badge)
        sources.fill_bootstrap(notebook, code)
        sources.write(notebook, folder / "notebooks" / f"{name}.ipynb")
        title = records.title(project, name)
        lines.append(f"- [{title}](notebooks/{name}.ipynb) {badge}".rstrip())
    about = {"commit": commit or "unknown", "repository": repository or "the project"}
    page = README.format(chapters="\n".join(lines), **about)
    (folder / "README.md").write_text(page, encoding="utf-8")
    return folder


def convert(
    notebook: NotebookNode, name: str, markdown: PlainMarkdown, badge: str
) -> None:
    """Make a committed notebook one that Colab shows well: see the module."""
    markdown.make_plain(notebook, name)
    if badge:
        notebook.cells[0].source = f"{badge}\n\n{notebook.cells[0].source}"
    for cell in sources.tagged(notebook, "bootstrap"):
        cell.metadata["cellView"] = "form"  # its title only, the code folded
    notebook.metadata["accelerator"] = "GPU"
    notebook.metadata["colab"] = {"gpuType": "T4", "provenance": []}


def check(project: Project, folder: Path) -> None:
    """``BuildError`` where a launch button opens a notebook that cannot start.

    That is one that is not in ``folder``, or whose first cell does not know the address.
    """
    wrong = list(_wrong_buttons(project, folder))
    if wrong:
        raise BuildError("\n".join(wrong))


def _wrong_buttons(project: Project, folder: Path) -> Iterator[str]:
    for page in sorted(project.html.rglob("*.html")):
        opened = re.findall(
            rf'href="{re.escape(address.COLAB)}/github/([^"]+)"',
            page.read_text(encoding="utf-8"),
        )
        for where in opened:
            repository, _, rest = where.partition("/blob/")
            branch, _, path = rest.partition("/")
            notebook = folder / path
            said = f"{project.show(page)}: its button opens {path} of branch {branch}"
            if branch != address.COLAB_BRANCH or not notebook.is_file():
                yield f"{said}, which is not there"
            elif not _knows(notebook, repository):
                yield f"{said}, whose first cell does not know the project's address"


def _knows(path: Path, repository: str) -> bool:
    """Whether the first code cell of a notebook names the repository."""
    cells = sources.tagged(sources.read(path), "bootstrap")
    wanted = f'REPOSITORY = "https://github.com/{repository}"'
    return any(wanted in cell.source for cell in cells)
