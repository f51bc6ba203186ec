"""Chapters to download: notebook, script, and one page that needs no other file.

MyST roles are replaced by plain Markdown first, since Jupyter does not render them:
glued values become numbers, cross-references become titles, and cited sources are listed
at the end.
"""

import ast
import copy
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from book.builder import address, claims, mathjax, records, sources
from book.builder.literature import Literature
from book.builder.project import BuildError, Project

TEMPLATE = Path(__file__).resolve().parent / "template"
# Colours of code in the light and in the dark theme.
CODE = {"light": "github-light-high-contrast", "dark": "github-dark-high-contrast"}
ROLE = re.compile(r"\{([\w:]+)\}`([^`]+)`")
EQUATION = re.compile(r"\$\$\s*\((eq-[\w-]+)\)")
TARGET = re.compile(r"^\([\w-]+\)=\n", re.MULTILINE)
BOX = re.compile(
    r"^:::\{admonition\} (.+)\n:class: \w+\n((?:.*\n)*?):::$", re.MULTILINE
)


def _quote(box: re.Match[str]) -> str:
    """A titled box as a quotation."""
    lines = f"**{box[1]}**\n{box[2]}".splitlines()
    return "\n".join(f"> {line}".rstrip() for line in lines)


class PlainMarkdown:
    """Replaces the labels and MyST roles of the book by plain Markdown."""

    def __init__(self, project: Project) -> None:
        self.project = project

    @cached_property
    def values(self) -> dict[tuple[str, str], object]:
        """Glued values by chapter and name, from the executed chapters."""
        found = {}
        for path in self.project.executed.glob("*.ipynb"):
            for cell in sources.read(path).cells:
                for output in cell.get("outputs", []):
                    glued = output.get("metadata", {}).get("scrapbook", {})
                    if "name" in glued:
                        text = output.data[glued["mime_prefix"] + "text/plain"]
                        found[path.stem, glued["name"]] = ast.literal_eval(text)
        return found

    @cached_property
    def verdicts(self) -> dict[str, tuple[str, claims.Record]]:
        """The records of all claims."""
        return claims.records(self.project)

    @cached_property
    def literature(self) -> Literature:
        """The sources that can be cited."""
        return Literature(self.project.book / "references.bib")

    @cached_property
    def equations(self) -> dict[str, int]:
        """The number of every labelled equation; each chapter counts from one."""
        numbers = {}
        for name in sources.chapters(self.project):
            notebook = sources.read(self.project.notebooks / f"{name}.ipynb")
            labels = EQUATION.findall(prose(notebook))
            numbers |= {label: place for place, label in enumerate(labels, start=1)}
        return numbers

    def convert(self, text: str, chapter: str) -> str:
        """``text`` of that chapter without labels and roles.

        ``BuildError`` for a role that has no plain form here.
        """
        makers: dict[str, Callable[[str], str]] = {
            "glue:text": lambda words: self.value(words, chapter),
            "doc": lambda words: f"*{self.heading(words)}*",
            "eq": lambda words: f"({self.equations[words]})",
            "ref": lambda words: words.partition(" <")[0],
            "term": lambda words: words.partition(" <")[0],
            "cite": self.cited,
            "claim": lambda words: claims.plain(words, self.verdicts),
        }

        def plain(role: re.Match[str]) -> str:
            if role[1] not in makers:
                raise BuildError(f"{chapter}: no plain words for the role {role[0]}.")
            return makers[role[1]](role[2])

        def tag(label: re.Match[str]) -> str:
            return rf"\tag{{{self.equations[label[1]]}}}$$"

        return EQUATION.sub(tag, ROLE.sub(plain, BOX.sub(_quote, TARGET.sub("", text))))

    def make_plain(self, notebook: NotebookNode, chapter: str) -> None:
        """Convert all Markdown of a chapter, list what it cites, drop what it glued."""
        cited = self.references(notebook)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = self.convert(cell.source, chapter)
            elif cell.cell_type == "code":
                cell.outputs = [
                    o for o in cell.outputs if "scrapbook" not in o.get("metadata", {})
                ]
        if cited:
            notebook.cells.append(new_markdown_cell(cited, id="references"))

    def value(self, words: str, chapter: str) -> str:
        """A glued value in the format that the page shows."""
        source, _, rest = words.rpartition("::")
        name, _, form = rest.partition(":")
        found = self.values.get((Path(source).stem or chapter, name))
        return "(not run)" if found is None else format(found, form)

    def cited(self, words: str) -> str:
        """Sources by authors and year."""
        return f"({'; '.join(map(self.literature.short, words.split(',')))})"

    def references(self, notebook: NotebookNode) -> str:
        """The section that lists the cited sources; empty if there are none."""
        cited = re.findall(r"\{cite\}`([^`]+)`", prose(notebook))
        keys = [key for words in cited for key in words.split(",")]
        return f"## References\n\n{self.literature.listing(keys)}" if keys else ""

    def heading(self, words: str) -> str:
        """The title of a page, or the title given in the reference."""
        given, _, target = words.rpartition("<")
        if given:
            return given.strip()
        name = Path(target).name
        if (self.project.notebooks / f"{name}.ipynb").is_file():
            return records.title(self.project, name)
        text = (self.project.book / f"{name}.md").read_text(encoding="utf-8")
        return next(x[2:] for x in text.splitlines() if x.startswith("# "))


def prose(notebook: NotebookNode) -> str:
    """All Markdown of a notebook."""
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def write_all(project: Project, folder: Path) -> None:
    """Write the copies of every chapter that was run into ``folder``."""
    markdown = PlainMarkdown(project)
    folder.mkdir(parents=True)
    where = address.repository(project), address.commit(project)
    code = sources.bootstrap_cell(project, *where)
    for name, entry in records.entries(project).items():
        notebook = sources.read(project.executed / f"{name}.ipynb")
        records.fill_runtime(notebook, entry)
        sources.fill_bootstrap(notebook, code)
        write(folder, name, notebook, markdown)


def write(
    folder: Path, name: str, notebook: NotebookNode, markdown: PlainMarkdown
) -> None:
    """Write the three copies of one executed chapter into ``folder``."""
    from nbconvert import PythonExporter

    plain = copy.deepcopy(notebook)
    markdown.make_plain(plain, name)
    sources.write(plain, folder / f"{name}.ipynb")
    script, _ = PythonExporter(exclude_input_prompt=True).from_notebook_node(plain)
    (folder / f"{name}.py").write_text(script, encoding="utf-8")
    title = records.title(markdown.project, name)
    (folder / f"{name}.html").write_text(page(plain, title), encoding="utf-8")


def page(notebook: NotebookNode, title: str) -> str:
    """One HTML file that contains everything it needs, MathJax included."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name=TEMPLATE.name,
        extra_template_basedirs=[str(TEMPLATE.parent)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    about = {
        "title": title,
        "code": {theme: code_colours(style) for theme, style in CODE.items()},
        "mathjax": mathjax.path().read_text(encoding="utf-8"),
    }
    body, _ = exporter.from_notebook_node(notebook, resources={"about": about})
    head, main, rest = body.partition("<main>")
    # Blocks that scroll horizontally must be reachable by keyboard.
    return head + main + rest.replace("<pre>", '<pre tabindex="0">')


def code_colours(style: str) -> str:
    """The CSS of a Pygments style."""
    from pygments.formatters import HtmlFormatter

    return HtmlFormatter(style=style).get_style_defs(".highlight")


def add_links(notebook: NotebookNode, name: str) -> None:
    """Link the copies in the section *At a glance*, before the runtime."""
    links = ", ".join(records.link("../", name, kind) for kind in records.KINDS)
    line = f"- **Download.** As {links}.\n"
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and sources.RUNTIME[0] in cell.source:
            place = cell.source.rfind("\n", 0, cell.source.index(sources.RUNTIME[0]))
            cell.source = cell.source[: place + 1] + line + cell.source[place + 1 :]
