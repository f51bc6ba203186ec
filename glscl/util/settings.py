"""Settings that are checked: types, choices and ranges, and how text becomes a value.

A settings class is a frozen dataclass that derives from ``Settings``. Each field has a
type, which may be a ``Literal`` of choices or ``Annotated`` with pydantic's ``Field`` and
a range. A value that does not fit is refused in one sentence, whoever gives it: a preset,
a saved model, ``--set``, or a notebook's parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    NoneType: "null",
}


@dataclass(frozen=True)
class Settings:
    """A frozen dataclass whose fields are checked when it is made.

    Raises ``ValueError`` naming the first setting that does not fit, its value, and what
    is allowed. No text stands for a number or a truth value; a whole number may stand
    for a number.
    """

    def __post_init__(self) -> None:
        types = field_types(type(self))
        for field in fields(self):
            check(types[field.name], getattr(self, field.name), field.name)


@lru_cache(maxsize=32)
def field_types(kind: type) -> dict[str, Any]:
    """The type of each field of a settings class, ranges included."""
    return get_type_hints(kind, include_extras=True)


def known_names(kind: type, names: Iterable[str]) -> None:
    """Raise ``ValueError`` for the first of ``names`` that is no field of ``kind``."""
    known = {field.name for field in fields(kind)}
    for name in names:
        if name not in known:
            raise ValueError(
                f"Unknown setting {name!r} of {kind.__name__}: expected one of "
                f"{sorted(known)}."
            )


def check(allowed: Any, value: Any, name: str) -> None:
    """Raise ``ValueError`` where ``value`` is not of the type ``allowed``."""
    if not fits(allowed, value):
        raise ValueError(f"{name} must be {described(allowed)}, got {value!r}.")


def fits(allowed: Any, value: Any) -> bool:
    """Whether ``value`` is of the type ``allowed``, within its range."""
    from pydantic import ValidationError

    try:
        _adapter(allowed).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


@lru_cache(maxsize=256)
def _adapter(allowed: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(allowed)


def described(allowed: Any) -> str:
    """A type in words: ``"a whole number of at least 1, or null"``."""
    if get_origin(allowed) is Annotated:
        kind, *extras = get_args(allowed)
        bounds = [bound for extra in extras for bound in _bounds(extra)]
        return described(kind) + (f" {' and '.join(bounds)}" if bounds else "")
    if get_origin(allowed) is Literal:
        *most, last = (repr(choice) for choice in get_args(allowed))
        return f"{', '.join(most)} or {last}" if most else last
    if get_origin(allowed) in (Union, UnionType):
        return ", or ".join(map(described, get_args(allowed)))
    if get_origin(allowed) in (list, tuple):
        return "a list"
    return _NAMES.get(allowed, getattr(allowed, "__name__", str(allowed)))


def _bounds(extra: Any) -> Iterable[str]:
    words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    for constraint in getattr(extra, "metadata", ()):
        for key, text in words.items():
            if hasattr(constraint, key):
                yield f"{text} {getattr(constraint, key):g}"


def parse(pairs: Iterable[str]) -> dict[str, Any]:
    """Values of ``NAME=VALUE`` pairs; a value is YAML: ``true``, ``null``, ``1e-4``, text.

    Raises ``ValueError`` for a pair without ``=`` and a value that is not YAML.
    """
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"A setting is given as NAME=VALUE, got {pair!r}.")
        try:
            found[name.strip()] = yaml.load(text, _loader())
        except yaml.YAMLError:
            raise ValueError(f"{name}: the value {text!r} is not YAML.") from None
    return found


@lru_cache(maxsize=1)
def _loader() -> Any:
    """YAML 1.1 as PyYAML reads it, and 1e-4 as the number that YAML 1.2 has for it."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Plain values only."""

    number = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", number, list("-+.0123456789")
    )
    return Loader


def load_yaml(text: str) -> Any:
    """The content of a YAML file, numbers as ``parse`` reads them; ``yaml.YAMLError``."""
    import yaml

    return yaml.load(text, _loader())
