"""A Sphinx extension that shows indented blocks of docstrings as literal blocks.

Formulas and listings in docstrings follow an empty line and are indented. Sphinx would
join their lines to a paragraph unless the line before ends in ``::``.
"""

import re
from typing import Any

INDENT = 4


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", keep_lines)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def keep_lines(
    app: Any, what: str, name: str, subject: object, options: Any, lines: list[str]
) -> None:
    """Put ``::`` before every indented block of ``lines``, in place."""
    marked: list[str] = []
    before = ""  # the last line that is not empty
    for line in lines:
        starts = not marked or not marked[-1]
        if starts and _depth(line) >= INDENT and _is_text(before):
            marked += ["::", ""]
        marked.append(line)
        before = line if line.strip() else before
    lines[:] = marked


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_text(line: str) -> bool:
    """Whether an indented block after this line belongs to no list or directive."""
    return bool(re.match(r"(?![-*] |\.\. |:)\S", line)) and not line.endswith("::")
