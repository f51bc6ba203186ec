"""The tables of the page *Claims*, from the records of the chapters that were run."""

import html
import re

from book.builder import claims, manifest, records
from book.builder.project import BuildError, Project
from book.kit.claims import badge, evidence_text
from book.kit.evidence import VERDICTS

KINDS = ("identity", "difference", "count", "ordering")


def make(project: Project, words: str) -> str:
    """``summary``: how many of which kind and verdict. ``table``: every claim."""
    makers = {"summary": summary, "table": table}
    if words not in makers:
        raise BuildError(f"No claims '{words}'; known: {', '.join(makers)}.")
    return makers[words](project)


def summary(project: Project) -> str:
    """Numbers of claims by kind of evidence and verdict."""
    found = [one for _, one in claims.records(project).values()]
    counts = claims.by_verdict(found)
    rows = [
        (kind, *(str(counts.get((kind, verdict), 0)) for verdict in VERDICTS))
        for kind in KINDS
    ]
    totals = [str(sum(one["verdict"] == v for one in found)) for v in VERDICTS]
    rows.append((f"together {len(found)}", *totals))
    lacking = {one.name for one in claims.declared(project)}.difference(
        claims.records(project)
    )
    missing = f"<p>Not run in this build: {len(lacking)} claims.</p>" if lacking else ""
    caption = "Claims by kind of evidence and verdict"
    return records.table(caption, ("kind", *VERDICTS), rows) + missing


def table(project: Project) -> str:
    """One row for each claim, chapter by chapter."""
    entries = manifest.load(project.build / "manifest.json")
    rows = []
    for name, (chapter, one) in claims.records(project).items():
        link = f'<a href="../notebooks/{chapter}.html#{name}">'
        small = (
            f"; needs more: {', '.join(one['too_small'])}" if one["too_small"] else ""
        )
        says = "" if one["says"] == one["verdict"] else f" (text: {one['says']})"
        chosen = entries.get(chapter, {}).get("parameter_set", "cpu")
        again = f"make book PARAMS={chosen} ONLY={chapter}"
        commands = [x for x in (one["command"], again) if x]
        rows.append(
            (
                f'<span id="{name}">{_emphasis(one["statement"])}</span> '
                f"({link}{records.title(project, chapter)}</a>)",
                f"<strong>{html.escape(badge(one))}</strong>{html.escape(says + small)}",
                html.escape(one["kind"]),
                html.escape(f"{evidence_text(one)}. {one['method']}."),
                html.escape(one["refuted_by"]),
                "<br>".join(f"<code>{html.escape(x)}</code>" for x in commands),
            )
        )
    head = ("claim", "verdict", "kind", "measured", "refuted by", "made by")
    if not rows:
        return "<p><em>Shown when the chapters have been run.</em></p>"
    return records.table("Every claim of the book", head, rows)


def _emphasis(statement: str) -> str:
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", html.escape(statement))
