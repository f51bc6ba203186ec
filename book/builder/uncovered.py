"""Sentences that interpret and that no claim covers: a report, one file of the build.

A sentence counts as interpreting when it compares, generalises or gives a reason. It is
covered when it ends in a ``{claim}`` badge.
"""

import re
from collections.abc import Iterator

from book.builder.claims import ROLE
from book.builder.project import Project
from book.builder.prose import NO_PROSE, pages

NAME = "interpretive_sentences.txt"
WORDS = re.compile(
    r"\b(?:better|worse|best|worst|higher|lower|larger|smaller|faster|slower|cheaper"
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


def write(project: Project) -> int:
    """Write the report into the build folder; returns the number of sentences."""
    lines = [
        f"{where}: {sentence} [{', '.join(words)}]"
        for where, text in pages(project)
        for sentence, words in sentences(text)
    ]
    project.build.mkdir(exist_ok=True)
    (project.build / NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)
