"""Claims of the chapters: what the prose states, what the runs recorded.

A claim is a call ``claims.claim("name", "statement", ...)`` of ``book.kit.claims``. In
the prose its statement stands word for word, followed by the role ``{claim}`name```. The
build replaces the role by a badge that links to the page *Claims*.
"""

import ast
import html
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nbformat import NotebookNode

from book.builder import sources
from book.builder.project import Project
from book.builder.prose import pages
from book.kit.claims import badge, contradicts, evidence_text

ROLE = re.compile(r"\{claim\}`([^`]+)`")
NOT_RUN = "(not run)"
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Declared:
    """A claim as the code of a chapter states it."""

    name: str
    statement: str
    chapter: str


def declared(project: Project) -> list[Declared]:
    """All claims in the code of the chapters, in reading order."""
    found = []
    for chapter in sources.chapters(project):
        notebook = sources.read(project.notebooks / f"{chapter}.ipynb")
        for cell in notebook.cells:
            if cell.cell_type == "code" and "claims.claim(" in cell.source:
                for name, statement in _calls(cell.source):
                    found.append(Declared(name, statement, chapter))
    return found


def _calls(code: str) -> Iterator[tuple[str, str]]:
    """Name and statement of every claim; empty where they are no literals."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "claims.claim":
            texts = [
                a.value if isinstance(a, ast.Constant) else "" for a in node.args[:2]
            ]
            name, statement = (*map(str, texts), "", "")[:2]
            yield name, statement


def check(project: Project) -> Iterator[str]:
    """Every claim that the prose lacks or words differently, and every lost role."""
    known = {one.name: one for one in declared(project)}
    names = [one.name for one in declared(project)]
    for one in declared(project):
        if not one.name or not one.statement:
            yield f"{one.chapter}: a claim's name and statement must be literals"
        elif names.count(one.name) > 1:
            yield f"{one.chapter}: there are several claims {one.name}"
    placed: set[tuple[str, str]] = set()
    for where, text in pages(project):
        words = " ".join(text.split())
        for name in ROLE.findall(text):
            if name not in known:
                yield f"{where}: no chapter makes the claim {name}"
            elif f"{known[name].statement} {{claim}}`{name}`" not in words:
                yield (
                    f"{where}: before the badge of {name} the text does not say "
                    f"“{known[name].statement}”"
                )
            else:
                placed.add((where.partition(".ipynb")[0], name))
    for one in known.values():
        if one.name and (f"notebooks/{one.chapter}", one.name) not in placed:
            yield f"{one.chapter}: no sentence has the badge {{claim}}`{one.name}`"


def recorded(notebook: NotebookNode) -> Iterator[Record]:
    """The records that a run of a chapter stored."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "claim" in output.get("metadata", {}):
                yield output["metadata"]["claim"]


def contradictions(notebook: NotebookNode) -> list[str]:
    """The claims of a run on which the data decide otherwise than the text says."""
    return [
        f"{one['name']}: the text says “{one['says']}”, the data “{one['verdict']}”: "
        f"{one['statement']} {evidence_text(one)}. {one['method']}."
        for one in recorded(notebook)
        if contradicts(one)
    ]


def check_verdicts(notebook: NotebookNode) -> None:
    """``ValueError`` where the text of a chapter says otherwise than its data."""
    found = contradictions(notebook)
    if found:
        raise ValueError("\n".join(found))


def records(project: Project) -> dict[str, tuple[str, Record]]:
    """By the name of each claim: its chapter and its record of the last run."""
    found = {}
    for chapter in sources.chapters(project):
        path = project.executed / f"{chapter}.ipynb"
        if path.is_file():
            for one in recorded(sources.read(path)):
                found[one["name"]] = (chapter, one)
    return found


def put_badges(text: str, found: Mapping[str, tuple[str, Record]]) -> str:
    """``text`` of a page with a badge in place of every role."""

    def put(role: re.Match[str]) -> str:
        if role[1] not in found:
            return NOT_RUN
        record = found[role[1]][1]
        label = html.escape(badge(record))
        kind = record["verdict"].split()[0]
        return (
            f'<a class="glscl-badge glscl-badge-{kind}" '
            f'href="../book/claims.html#{role[1]}">{label}</a>'
        )

    return ROLE.sub(put, text)


def plain(name: str, found: Mapping[str, tuple[str, Record]]) -> str:
    """The badge as words, for copies of a chapter outside the book."""
    return f"[{badge(found[name][1])}]" if name in found else NOT_RUN


def by_verdict(found: Iterable[Record]) -> dict[tuple[str, str], int]:
    """How many claims there are of each kind and verdict."""
    counts: dict[tuple[str, str], int] = {}
    for one in found:
        key = one["kind"], one["verdict"]
        counts[key] = counts.get(key, 0) + 1
    return counts
