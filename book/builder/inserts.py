"""Computed outputs, drawings and records, inserted into prose pages.

A comment on a line of its own says what is inserted::

    <!-- output: 07_full_model opening -->
    <!-- drawing: method -->
    <!-- record: provenance -->
    <!-- claims: table -->
    <!-- command: data make -->

The first is the output of the cell ``opening`` of that chapter. The second is the
diagram of the method with links to the chapters. The third is a table about the build,
see ``records.py``, the next are tables of claims, see ``claims_page.py``, the last the
options of a command, see ``command_line.py``.
"""

import re
from collections.abc import Callable

from book.builder import claims_page, command_line, records, sources
from book.builder.project import BuildError, Project

_MARK = re.compile(r"^<!-- (output|drawing|record|claims|command): (.+?) -->$", re.M)
#: The chapters that the boxes of ``book.kit.diagrams.method`` link to.
CHAPTERS = {
    "sentence": "01_task_and_data",
    "video": "01_task_and_data",
    "text tower": "02_contrastive_learning",
    "image tower": "02_contrastive_learning",
    "temporal": "03_clip_adaptation",
    "global": "04_gim",
    "local": "05_lim",
    "score": "07_full_model",
    "losses": "06_auxiliary_losses",
    "training": "08_training",
    "ranks": "09_results",
    "search": "14_search",
}
MAP = (
    "From top to bottom: a sentence goes through CLIP's text tower, the frames of a "
    "video through CLIP's image tower and the frame transformer. Both meet in the "
    "global and in the local module, whose sum is the score. In training the score "
    "goes into the losses, in evaluation it becomes ranks. Every box links to its "
    "chapter."
)


def fill(project: Project, page: str, text: str) -> str:
    """``text`` of the prose page of that name with all insertions made."""
    makers: dict[str, Callable[[Project, str], str]] = {
        "output": output,
        "drawing": drawing,
        "record": records.make,
        "claims": claims_page.make,
        "command": command_line.make,
    }

    def put(match: re.Match[str]) -> str:
        try:
            found = makers[match[1]](project, match[2])
        except BuildError as error:
            raise BuildError(f"{page}: {error}") from None
        return f"```{{raw}} html\n{found}\n```"

    return _MARK.sub(put, text)


def output(project: Project, words: str) -> str:
    """The HTML output of a cell; ``words``: the names of its chapter and of the cell."""
    name, _, cell_id = words.partition(" ")
    source = project.notebooks / f"{name}.ipynb"
    if not source.is_file():
        raise BuildError(f"No chapter '{name}' to take an output from.")
    if all(cell.id != cell_id for cell in sources.read(source).cells):
        raise BuildError(f"{name} has no cell '{cell_id}' to take an output from.")
    executed = project.executed / f"{name}.ipynb"
    if not executed.is_file():
        return "<p><em>Shown when the chapters have been run.</em></p>"
    cell = next((c for c in sources.read(executed).cells if c.id == cell_id), None)
    shown = [
        output["data"]["text/html"]
        for output in (cell.outputs if cell else [])
        if "text/html" in output.get("data", {})
    ]
    return "\n".join(shown) or "<p><em>Shown when the chapters have been run.</em></p>"


def drawing(project: Project, words: str) -> str:
    """The diagram of the method, with links from ``book/`` to the chapters."""
    # Imported late: most calls of the build draw nothing.
    from book.kit.diagrams import method

    if words != "method":
        raise BuildError(f"No drawing '{words}'; there is 'method'.")
    links = {box: f"../notebooks/{name}.html" for box, name in CHAPTERS.items()}
    shown = method(links).svg(MAP, role="group")
    return f'<nav class="book-map" aria-label="The method">{shown}</nav>'
