"""Parameter sets: which literal values a notebook is run with.

Papermill accepts a misspelt name without a word and the run then silently uses the
default. Here an unknown name, an unknown notebook and a value of another type fail.
"""

import ast
import io
import tokenize
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from book.builder.project import BuildError
from book.kit.settings import GIVEN
from glscl import config
from glscl.util import settings

Values = dict[str, Any]
DEFAULT_TIMEOUT = 900


def declared(source: str, where: str) -> Values:
    """Names and defaults of a ``parameters`` cell of commented literals.

    Raises ``BuildError`` for anything but ``name = literal  # comment`` lines.
    """
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise BuildError(
            f"{where}: the parameters cell is not Python: {error}."
        ) from None
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    commented = {t.start[0] for t in tokens if t.type == tokenize.COMMENT}
    values: Values = {}
    for node in statements:
        line = ast.get_source_segment(source, node) or ""
        if (
            not isinstance(node, ast.Assign)
            or len(node.targets) != 1
            or not isinstance(node.targets[0], ast.Name)
        ):
            raise BuildError(
                f"{where}: the parameters cell may only hold lines "
                f"`name = literal  # comment`, found `{line}`."
            )
        try:
            value = ast.literal_eval(node.value)
        except ValueError:
            raise BuildError(
                f"{where}: a parameter must be a literal, found `{line}`."
            ) from None
        if node.end_lineno not in commented:
            raise BuildError(f"{where}: parameter `{line}` needs a comment behind it.")
        values[node.targets[0].id] = value
    return values


def read_set(
    path: Path, notebooks: Mapping[str, Values]
) -> tuple[dict[str, Values], int]:
    """All values of every notebook under one set, and the seconds a cell may take.

    ``notebooks`` maps each notebook's name to its declared defaults. The file holds
    ``cell_timeout``, ``common`` (for every notebook that declares the name) and
    ``notebooks`` (one mapping each).
    """
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise BuildError(f"No parameter set '{path.stem}' at {path}; known: {known}.")
    try:
        content = settings.load_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise BuildError(
            f"{path.name} is not UTF-8: byte {error.start} is no character."
        ) from None
    except ValueError as error:
        raise BuildError(f"{path.name} is {error}.") from None
    content = _mapping(content, {"cell_timeout", "common", "notebooks"}, path.name)
    own = _mapping(content.get("notebooks"), notebooks, f"{path.name}, notebooks")
    names = {name for defaults in notebooks.values() for name in defaults}
    common = _mapping(content.get("common"), names, f"{path.name}, common")
    values = {}
    for notebook, defaults in notebooks.items():
        mine = _mapping(own.get(notebook), defaults, f"{path.name}, {notebook}")
        given = {k: v for k, v in common.items() if k in defaults} | mine
        for name, value in given.items():
            _check(value, defaults[name], f"{path.name}, {notebook}", name)
        values[notebook] = defaults | given
        if "size" in defaults:  # which chooses a set for a notebook run by hand
            values[notebook]["size"] = GIVEN
    timeout = content.get("cell_timeout", DEFAULT_TIMEOUT)
    if not settings.fits(Annotated[int, Field(ge=1)], timeout):
        raise BuildError(
            f"{path.name}: cell_timeout must be a whole number of seconds, at least 1, "
            f"got {timeout!r}."
        )
    return values, timeout


def assignments(pairs: Iterable[str]) -> Values:
    """``NAME=VALUE`` pairs; a value is YAML, as in a parameter file."""
    try:
        return settings.parse(pairs)
    except ValueError as error:
        raise BuildError(f"--set: {error}") from None


def changed(
    values: Mapping[str, Values], changes: Values, notebooks: Mapping[str, Values]
) -> dict[str, Values]:
    """The values of ``notebooks`` (name and defaults) with ``changes`` to those they
    have; a name that none of them declares is refused."""
    _mapping(changes, {name for d in notebooks.values() for name in d}, "--set")
    result = {}
    for notebook, defaults in notebooks.items():
        given = {k: v for k, v in changes.items() if k in defaults}
        for name, value in given.items():
            _check(value, defaults[name], f"--set, {notebook}", name)
        result[notebook] = values[notebook] | given
    return result


def _mapping(given: object, allowed: Collection[str], where: str) -> Values:
    """``given``, a mapping of ``allowed`` names or nothing."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise BuildError(f"{where}: expected a mapping, found {given!r}.")
    for key in given:
        if key not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise BuildError(f"{where}: unknown name '{key}'; known: {known}.")
    return given


def _check(value: object, default: object, where: str, name: str) -> None:
    """A value has the type and range of the setting of that name, or its default's type.

    A default of None that is no setting's accepts everything.
    """
    kinds = [kind for kind in _setting_types(name) if settings.fits(kind, default)]
    if default is None and not kinds:
        return
    try:
        settings.check(kinds[0] if kinds else type(default), value, name)
    except ValueError as error:
        raise BuildError(f"{where}: {error}") from None


def _setting_types(name: str) -> Iterator[Any]:
    """The types of the package's settings of that name."""
    others = (config.TrainConfig, config.RunOptions, config.DataOptions)
    for kind in (*config.MODEL_CONFIGS.values(), *others):
        if name in settings.field_types(kind):
            yield settings.field_types(kind)[name]
