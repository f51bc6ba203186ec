"""Sentences that interpret: each has a claim, or a reason why it needs none.

A sentence counts as interpreting when it compares, generalises or gives a reason. It is
covered when it ends in a ``{claim}`` badge. Any other stands in
``book/reasons/PAGE.yml`` below the reason why no claim covers it: it says what the
program does, defines a term, follows from a formula, and the like.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from book.builder.claims import ROLE
from book.builder.project import Project
from book.builder.prose import NO_PROSE, pages

NAME = "interpretive_sentences.txt"
WORDS = re.compile(
    r"\b(?:better|worse|best|worst|higher|lower|larger|smaller|faster|slower|cheaper"
    r"|highest|lowest|largest|smallest|fastest|slowest|cheapest|strongest"
    r"|more|less|fewer|most|least|because|therefore|shows?|proves?|means that|explains?"
    r"|do(?:es)? not|did not|cannot|never|always|helps?|hurts?|gains?|loses?|improves?"
    r"|enough|useful|matters?|hardly|clearly|only if|the reason)\b",
    re.IGNORECASE,
)
_HEADING = re.compile(r"^(?:#+ .*|\([\w-]+\)=)$", re.MULTILINE)
_END = re.compile(r"(?<=[.!?:])\s+(?=[A-Z“*\[{…(])")


def sentences(text: str) -> Iterator[tuple[str, list[str]]]:
    """Every interpreting sentence of ``text`` that no claim covers, with its words."""
    kept = ROLE.sub(lambda role: "\ue000", text)  # a mark that is not prose's own
    shown = _HEADING.sub("", NO_PROSE.sub("…", kept))
    for paragraph in re.split(r"\n\s*\n|\n(?=[-|]|\d+\. )", shown):
        words = " ".join(paragraph.split()).replace(" \ue000", "\ue000")
        for sentence in _END.split(words.replace(".\ue000", "\ue000.")):
            found = WORDS.findall(sentence)
            if found and "\ue000" not in sentence:
                yield sentence, sorted({word.lower() for word in found})


def reasons(project: Project) -> dict[tuple[str, str], str]:
    """The reason of each sentence, by page and sentence."""
    return {
        (path.stem, sentence): reason
        for path in sorted((project.book / "reasons").glob("*.yml"))
        for reason, found in yaml.safe_load(path.read_text(encoding="utf-8")).items()
        for sentence in found
    }


def open_ones(project: Project) -> tuple[list[str], list[str]]:
    """Sentences with neither claim nor reason, and reasons without their sentence."""
    given, said, lines = reasons(project), set(), []
    for where, text in pages(project):
        page = Path(where.split(",")[0]).stem
        for sentence, words in sentences(text):
            said.add((page, sentence))
            if (page, sentence) not in given:
                lines.append(f"{where}: {sentence} [{', '.join(words)}]")
    return lines, [": ".join(key) for key in given if key not in said]


def write(project: Project) -> tuple[int, int]:
    """Write the report into the build folder; the number of lines of both kinds."""
    lines, stale = open_ones(project)
    said = [*lines, *(f"no longer said, {line}" for line in stale)]
    project.build.mkdir(exist_ok=True)
    (project.build / NAME).write_text("\n".join(said) + "\n", encoding="utf-8")
    return len(lines), len(stale)
