"""Settings that are checked: types, choices and ranges, and how text becomes a value.

A settings class is a frozen dataclass that derives from ``Settings``. Each field has a
type, which may be a ``Literal`` of choices or ``Annotated`` with pydantic's ``Field`` and
a range. A value that does not fit is refused in one sentence, whoever gives it: a preset,
a saved model, ``--set``, or a notebook's parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

_TYPES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
    Path: "a path",
    NoneType: "null",
}
_BOUNDS = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}


@dataclass(frozen=True)
class Settings:
    """A frozen dataclass whose fields are checked when it is made.

    Raises ``ValueError`` naming the first setting that does not fit, its value, and what
    is allowed. Text is neither a number nor a truth value, a truth value is no number,
    and infinity is none; a whole number may stand for a number.
    """

    def __post_init__(self) -> None:
        for name, allowed in field_types(type(self)).items():
            check(allowed, getattr(self, name), name)


# Once for each class: a type that is evaluated anew would be a new key of ``_adapter``.
_hints = lru_cache(maxsize=32)(partial(get_type_hints, include_extras=True))


def field_types(kind: type) -> dict[str, Any]:
    """The type of each field of a settings class, ranges included."""
    return _hints(kind)


def known_names(names: Iterable[str], *kinds: type) -> None:
    """Raise ``ValueError`` for the first of ``names`` that no class of ``kinds`` has."""
    known = sorted({name for kind in kinds for name in field_types(kind)})
    for name in names:
        if name not in known:
            owners = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(
                f"Unknown setting {name!r} of {owners}: expected one of {known}."
            )


def check(allowed: Any, value: Any, name: str) -> None:
    """Raise ``ValueError`` where ``value`` is not of the type ``allowed``."""
    if not fits(allowed, value):
        raise ValueError(f"{name} must be {described(allowed)}, got {value!r}.")


def fits(allowed: Any, value: Any) -> bool:
    """Whether ``value`` is of the type ``allowed``, within its range."""
    try:
        _adapter(allowed).validate_python(value)
    except ValidationError:
        return False
    return True


@lru_cache(maxsize=256)
def _adapter(allowed: Any) -> TypeAdapter[Any]:
    # Infinity and NaN are refused: JSON, which settings are saved in, does not have them.
    return TypeAdapter(allowed, config=ConfigDict(strict=True, allow_inf_nan=False))


def described(allowed: Any) -> str:
    """A type in words: ``"a whole number of at least 1, or null"``."""
    kind, parts = get_origin(allowed), get_args(allowed)
    if kind is Annotated:
        constraints = [one for extra in parts[1:] for one in extra.metadata]
        bounds = [
            f"{words} {getattr(constraint, key):g}"
            for constraint in constraints
            for key, words in _BOUNDS.items()
            if hasattr(constraint, key)
        ]
        return f"{described(parts[0])} {' and '.join(bounds)}"
    if kind is Literal:
        *most, last = map(repr, parts)
        return f"{', '.join(most)} or {last}"
    if kind in (Union, UnionType):
        return ", or ".join(map(described, parts))
    return _TYPES.get(allowed, str(allowed))


class _Loader(yaml.SafeLoader):
    """YAML as PyYAML reads it, but 1e-4 is a number, as in YAML 1.2, a date is text, and
    a name that is there twice is an error.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value]
        for number, name in enumerate(names):
            if isinstance(name, str) and name in names[:number]:
                where = node.value[number][0].start_mark.line + 1
                raise ValueError(f"line {where}: {name!r} is there twice")
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_yaml(text: str) -> Any:
    """The content of ``text``; ``ValueError``, in one line, where it is not YAML."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None


def parse(pairs: Iterable[str]) -> dict[str, Any]:
    """Values of ``NAME=VALUE`` pairs; a value is YAML: ``true``, ``null``, ``1e-4``, text.

    Raises ``ValueError`` for a pair without ``=`` and a value that is not YAML.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"A setting is given as NAME=VALUE, got {pair!r}.")
        try:
            found[name.strip()] = load_yaml(text)
        except ValueError:
            raise ValueError(f"{name}: the value {text!r} is not YAML.") from None
    return found
