"""What each statement of a chapter is for: the idea, a table, a figure, or a claim.

Decided by the syntax tree: a call of ``report``, ``plots``, ``evidence`` or ``claims``,
a function that makes such calls, and assignments whose value nothing else uses and that
compute nothing.
"""

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nbformat import NotebookNode

#: Names by which drawing code is recognised.
DRAWN = {"plots", "fig", "ax", "axes"}
LIVE = "book.kit.live"
FUNCTIONS = (ast.FunctionDef, ast.ClassDef)
BLOCKS = (ast.For, ast.With, ast.If)
#: Nodes of a value that is looked up or written down, not computed.
PLAIN = (ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Tuple, ast.List)
PLAIN += (ast.Dict, ast.JoinedStr, ast.FormattedValue, ast.expr_context, ast.Slice)
PLAIN += (ast.IfExp, ast.Compare, ast.cmpop)


@dataclass(frozen=True)
class Part:
    """A statement of a cell: its lines (from 0, end excluded) and what it is for.

    ``kind``: ``"code"``, ``"table"`` (cut), ``"figure"`` or ``"claim"`` (folded).
    """

    start: int
    end: int
    kind: str


def parts(cells: Sequence[NotebookNode]) -> list[list[Part]]:
    """The parts of each cell, in order; together they are all lines of the cells.

    Read from the last statement to the first, so that it is known which names are used
    later by code that stays.
    """
    trees = [ast.parse(cell.source) for cell in cells]
    top = [node for tree in trees for node in tree.body]
    names = _drawing(top)
    functions = [node for node in top if isinstance(node, FUNCTIONS)]
    always = [_free(node) for node in functions if node.name not in names]
    live = set().union(*always)
    found: list[list[Part]] = []
    for cell, tree in zip(reversed(cells), reversed(trees), strict=True):
        found.append(_parts(cell.source.splitlines(), tree.body, names, live))
        live |= set().union(*always)
    return found[::-1]


def _parts(
    text: Sequence[str], body: Sequence[ast.stmt], drawing: set[str], live: set[str]
) -> list[Part]:
    """The parts of one cell; ``live`` gets the names that its code uses."""
    found: list[Part] = []
    starts = [0, *(node.end_lineno or 0 for node in body[:-1])]
    for node, start in zip(reversed(body), reversed(starts), strict=True):
        end = len(text) if not found else found[-1].start
        kind = _kind(node, drawing, live)
        if kind == "drawn code":  # what it computes cannot be shown apart
            return [Part(0, len(text), "figure")]
        if kind == "code":
            found += _without_glue(node, start, end)
            if isinstance(node, ast.Assign):
                live -= _assigned(node)
            live |= _free(node) if isinstance(node, FUNCTIONS) else _used(node)
        else:
            found.append(Part(start, end, kind))
    return found[::-1]


def _kind(node: ast.stmt, drawing: set[str], live: set[str]) -> str:
    """What a statement at the top of a cell is for."""
    if isinstance(node, FUNCTIONS):
        if node.name in drawing:
            return "figure"
        return "code"
    if isinstance(node, BLOCKS):
        return _kind_of_block(node, drawing, live)
    calls = _calls(node)
    made = _assigned(node)
    draws = calls & drawing or {"diagrams", "report.show"} & calls
    if made & live:
        return "drawn code" if draws else "code"
    if {"evidence", "claims"} & calls:
        return "claim"
    if draws:
        return "figure"
    if "report" in calls:
        return "table"
    if made and (_is_plain(node) or "pd.DataFrame" in calls):
        return "figure" if "alt" in made else "table"
    return "code"


def _kind_of_block(node: ast.stmt, drawing: set[str], live: set[str]) -> str:
    """What a loop or a condition is for: that of its statements, if all only show.

    Values that such a loop computes for the table or the prose alone count as shown.
    """
    inside = [*node.body, *getattr(node, "orelse", [])]
    kinds = [_kind(x, drawing, live) for x in inside]
    if _calls(node) & drawing and {"code", "drawn code"} & set(kinds):
        return "drawn code"
    computed = [x for x, kind in zip(inside, kinds, strict=True) if kind == "code"]
    shows = len(computed) < len(inside)
    local = all(isinstance(x, ast.Assign) and not _assigned(x) & live for x in computed)
    if not shows or not local:
        return "code"
    return "figure" if "figure" in kinds else "table"


def _without_glue(node: ast.stmt, start: int, end: int) -> list[Part]:
    """The parts of a statement that stays, backwards: calls of ``glue`` in it are cut."""
    inside = [
        x
        for x in ast.walk(node)
        if isinstance(x, ast.Expr) and "report.glue" in _calls(x)
    ]
    found = []
    for call in sorted(inside, key=lambda x: -x.lineno):
        last = call.end_lineno or call.lineno
        found += [Part(last, end, "code"), Part(call.lineno - 1, last, "table")]
        end = call.lineno - 1
    return [
        part for part in [*found, Part(start, end, "code")] if part.start < part.end
    ]


def _calls(node: ast.AST) -> set[str]:
    """Names of what is called: ``report.show(...)`` gives ``report``, ``report.show``."""
    found: set[str] = set()
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            words = ast.unparse(call.func).split("(")[0].split(".")
            found |= {words[0], ".".join(words[:2])}
    return found


def _drawing(top: Iterable[ast.stmt]) -> set[str]:
    """Names by which drawing is recognised: ``plots``, its figures and their axes, live
    figures, and the functions of the chapter that use ``report``, ``plots`` or axes."""
    found = set(DRAWN)
    for node in top:
        if isinstance(node, FUNCTIONS):
            if {"report", "plots", "ax"} & _used(node):
                found.add(node.name)
        elif "plots.figure" in _calls(node):
            found |= _assigned(node)
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith(LIVE):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def _free(node: ast.AST) -> set[str]:
    """Names that a function takes from outside."""
    return _used(node) - _assigned(node) - _arguments(node)


def _arguments(node: ast.AST) -> set[str]:
    return {x.arg for x in ast.walk(node) if isinstance(x, ast.arg)}


def _used(node: ast.AST) -> set[str]:
    """Names whose value a statement uses."""
    changed = [x.target for x in ast.walk(node) if isinstance(x, ast.AugAssign)]
    return {
        x.id
        for x in ast.walk(node)
        if isinstance(x, ast.Name) and (isinstance(x.ctx, ast.Load) or x in changed)
    }


def _assigned(node: ast.AST) -> set[str]:
    """Names that a statement gives a value, or whose value it changes."""
    own = {  # names of comprehensions are not known outside them
        name
        for x in ast.walk(node)
        if isinstance(x, ast.comprehension)
        for name in ast.walk(x.target)
    }
    found = {
        x.id
        for x in ast.walk(node)
        if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store) and x not in own
    }
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets += [node.target] if isinstance(node, ast.AugAssign) else []
    return found | {n for t in targets for n in _used(t)}


def _is_plain(node: ast.stmt) -> bool:
    """Whether an assignment computes nothing: text, or what another name holds."""
    if not isinstance(node, (ast.Assign, ast.AugAssign)):
        return False
    return all(isinstance(x, PLAIN) for x in ast.walk(node.value))
