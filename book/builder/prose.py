"""Check that results in the prose are computed by a cell and not typed by hand.

A result is a number in percent or percentage points, or a number after the name of a
retrieval metric, outside code, formulas and roles. Two kinds are allowed: a published
number of ``book/paper_numbers.yml`` whose paragraph cites the source, and a phrase of
``book/typed_numbers.yml``, which gives the reason why no cell computes it.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from book.builder import sources
from book.builder.project import BuildError, Project

NUMBER = r"(?<![\w.@])\d+(?:[.,]\d+)*"
RESULT = re.compile(
    rf"{NUMBER}\s*(?:%|percent\b|(?:percentage )?points?\b)"
    r"|(?:R@\d+|\b(?:median|mean) rank|\bMdR|\bMnR)\s*"
    rf"(?:[|:=]|\b(?:of|is|was|at|reaches|falls to|rises to)\b)?\s*{NUMBER}"
)
# Not prose: listings, code, comments, roles and their content, formulas.
NO_PROSE = re.compile(
    r"^(`{3,}|~{3,}).*?^\1"
    r"|<!--.*?-->|\{[\w:]+\}`[^`]*`|(`+)[^`]+\2|\$\$.*?\$\$|\$(?:[^$\n]|\n(?!\s*\n))+\$",
    re.DOTALL | re.MULTILINE,
)


def check(project: Project) -> Iterator[str]:
    """Every typed result of every page, and every unused exemption."""
    published = set(_numbers(_read(project, "paper_numbers.yml")))
    exempt = _read(project, "typed_numbers.yml")
    used: set[str] = set()
    for where, text in pages(project):
        for found in typed(text, published, exempt, used):
            yield (
                f"{where}: '{found}' is a typed result; glue it, or cite the source of "
                "a number in paper_numbers.yml"
            )
    for phrase in exempt:
        if phrase not in used:
            yield f"book/typed_numbers.yml: no page says '{phrase}'; remove it"


def pages(project: Project) -> Iterator[tuple[str, str]]:
    """Name and text of all prose pages and of all Markdown cells of the chapters."""
    for path in sorted(project.book.glob("*.md")):
        yield project.show(path), path.read_text(encoding="utf-8")
    for name in sources.chapters(project):
        path = project.notebooks / f"{name}.ipynb"
        for cell in sources.read(path).cells:
            if cell.cell_type == "markdown":
                yield f"{project.show(path)}, cell {cell.id}", cell.source


def typed(
    text: str, published: set[float], exempt: dict[str, str], used: set[str]
) -> Iterator[str]:
    """Typed results of one text; exempt phrases found in it are added to ``used``."""
    for paragraph in re.split(r"\n\s*\n", NO_PROSE.sub(_keep_shape, text)):
        prose = " ".join(paragraph.split())
        for phrase in exempt:
            if phrase in prose:
                used.add(phrase)
                prose = prose.replace(phrase, "")
        for found in RESULT.finditer(prose):
            number = re.findall(NUMBER, found[0])[-1].replace(",", "")
            if "[cited]" not in prose or float(number) not in published:
                yield found[0]


def _keep_shape(found: re.Match[str]) -> str:
    """``[cited]`` for a citation, a placeholder with the same line breaks for the rest."""
    if re.match(r"\{cite", found[0]):
        return "[cited]"
    return "…" + "\n" * found[0].count("\n")


def _read(project: Project, name: str) -> dict[str, Any]:
    path = project.book / name
    if not path.is_file():
        return {}
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(content, dict):
        raise BuildError(f"{project.show(path)}: expected a mapping.")
    return content


def _numbers(node: object) -> Iterator[float]:
    """Every number at any depth of nested mappings and lists."""
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _numbers(value)
    elif isinstance(node, (int, float)):
        yield float(node)
