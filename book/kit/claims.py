"""A claim: a sentence of the text, the evidence for it, and whether they agree.

The sentence stands in the prose, word for word, with the role ``{claim}`name``` behind
it. The call stores a record, from which the build makes the badge beside the sentence
and the page *Claims*, and which stops the build where the text says otherwise.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from book.kit.evidence import CLOSE, FAILS, HOLDS, UNTESTED, VERDICTS, Evidence

NAME = re.compile(r"(?:ch\d\d|a\d)_[a-z0-9_]+")
SIGNS = {HOLDS: "✓", FAILS: "✗", CLOSE: "≈", UNTESTED: "–"}


def claim(
    name: str,
    statement: str,
    evidence: Evidence,
    refuted_by: str,
    says: str = HOLDS,
    needs: Mapping[str, tuple[float, float]] | None = None,
    command: str = "",
) -> None:
    """State, test and record a claim.

    ``name`` and ``statement`` are literals: the build reads them from the code.
    ``says``: the verdict that the text relies on. ``needs``: by name, what there is and
    what the claim needs at least, such as ``{"test clips": (test_clips, 300)}``; with
    less it is not tested at this size. ``command``: what makes stored data again.
    ``ValueError`` for a name, a verdict or a value that cannot be recorded.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"a claim's name looks like 'ch04_mass', got {name!r}.")
    if says not in VERDICTS:
        raise ValueError(f"{name}: says is one of {VERDICTS}, got {says!r}.")
    if not refuted_by.strip():
        raise ValueError(f"{name}: say what would refute the claim.")
    small = [
        f"{what}: {have:g} of {least:g}"
        for what, (have, least) in (needs or {}).items()
        if have < least
    ]
    record: dict[str, Any] = {
        "name": name,
        "statement": statement,
        "says": says,
        "refuted_by": refuted_by,
        "command": command,
        "too_small": small,
        **asdict(evidence),
    }
    if small:
        record["verdict"] = UNTESTED
    _check_finite(record)
    _display(record)


def contradicts(record: Mapping[str, Any]) -> bool:
    """Whether the data decide otherwise than the text says."""
    return record["verdict"] not in (record["says"], UNTESTED)


def badge(record: Mapping[str, Any]) -> str:
    """The verdict and the sizes in a few words: ``✓ holds, n = 5 seeds × 300 videos``."""
    verdict = record["verdict"]
    sizes = " × ".join(
        f"{k:,d} {what.removesuffix('s') if k == 1 else what}"
        for what, k in record["n"].items()
    )
    return f"{SIGNS[verdict]} {verdict}" + (f", n = {sizes}" if sizes else "")


def evidence_text(record: Mapping[str, Any]) -> str:
    """The measured values with units and intervals."""
    parts = []
    for one in record["measured"]:
        found = "; ".join(
            f"{name} {_number(low)} to {_number(high)}"
            for name, (low, high) in one["intervals"].items()
        )
        value = f"{one['what']}: {_number(one['value'])} {one['unit']}"
        parts.append(f"{value} ({found})" if found else value)
    return "; ".join(parts)


def _number(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _check_finite(record: Mapping[str, Any]) -> None:
    for one in record["measured"]:
        numbers = [
            one["value"],
            *(x for pair in one["intervals"].values() for x in pair),
        ]
        if not all(map(math.isfinite, numbers)):
            raise ValueError(
                f"{record['name']}: {one['what']} is not finite: {numbers}."
            )


def _display(record: Mapping[str, Any]) -> None:
    """Show the verdict with its evidence; the record goes into the output's metadata."""
    from IPython.display import display

    words = f"{evidence_text(record)}. {record['method']}."
    if record["too_small"]:
        words = f"It needs more ({', '.join(record['too_small'])})."
    refuted = f"Refuted by: {record['refuted_by']}"
    box = "border-left:3px solid;padding:0 .8em;margin:.6rem 0;font-size:.9em"
    markup = (
        f'<div class="glscl-claim" id="{record["name"]}" style="{box}"><p '
        f'style="margin:0"><strong>{html.escape(badge(record))}</strong> '
        f"“{html.escape(record['statement'])}” {html.escape(words)} "
        f"{html.escape(refuted)}</p></div>"
    )
    plain = f"{badge(record)}: {record['statement']} {words} {refuted}"
    data = {"text/html": markup, "text/plain": plain}
    display(data, raw=True, metadata={"claim": record})
