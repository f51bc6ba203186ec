"""A Sphinx extension for the reference: tables of settings, and no empty sentences.

A settings class gets a table of its fields: the values that are allowed, the default,
the meaning with its unit (the ``#:`` comment in the source), and the source of the
default, found by comparing it with the released settings for MSR-VTT. ``**changes`` and
``**settings`` of a model get the names that they may hold.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

HEAD = ("setting", "values", "default", "meaning", "source")
OPEN_NAMES = ("**changes", "**settings")
LAMBDA = re.compile(r"<function [^<>]*<lambda>>")
PROJECT = "this project"


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", add_settings)
    app.connect("autodoc-process-signature", readable)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def skip(
    app: Any, what: str, name: str, member: object, skipped: bool, options: Any
) -> bool | None:
    """Leave out fields that a table shows, or whose text is Python's own."""
    text = getattr(member, "__doc__", None) or ""
    if text.startswith("Alias for field number"):
        return True
    where = app.env.temp_data if app else {}
    module, owner = (where.get(f"autodoc:{key}") for key in ("module", "class"))
    parent = getattr(importlib.import_module(module), owner, None) if owner else None
    in_table = inspect.isclass(parent) and is_settings(parent)
    return True if in_table and name in parent.__dataclass_fields__ else None


def readable(
    app: Any,
    what: str,
    name: str,
    subject: Any,
    options: Any,
    signature: str | None,
    result: str | None,
) -> tuple[str | None, str | None]:
    """Settings without their types, which the table has; functions as an ellipsis."""
    if what == "class" and is_settings(subject):
        names = (f"{field.name}={shown(field.default)}" for field in fields(subject))
        return f"({', '.join(names)})", None
    return LAMBDA.sub("…", signature) if signature else signature, result


def add_settings(
    app: Any, what: str, name: str, subject: Any, options: Any, lines: list[str]
) -> None:
    """Add the fields of a settings class, and the names that ``**changes`` may hold."""
    if what == "class" and is_settings(subject):
        lines += ["", *table(subject)]
    elif what == "method" and (given := open_name(subject)):
        lines += ["", *known_settings(name, given)]


def is_settings(kind: type) -> bool:
    """Whether a class has settings as its fields; by name, to import nothing for others."""
    named = any(base.__name__ == "Settings" for base in kind.__mro__[1:])
    return named and is_dataclass(kind)


def open_name(function: Any) -> str:
    """The name of the argument of ``function`` that takes any setting, or nothing."""
    text = str(inspect.signature(function))
    return next((name[2:] for name in OPEN_NAMES if name in text), "")


def known_settings(method: str, argument: str) -> Iterator[str]:
    """The settings that ``argument`` of a model's method with this full name may hold."""
    from glscl.config import MODEL_CONFIGS

    module, owner, _ = method.rsplit(".", 2)
    model = getattr(importlib.import_module(module), owner, None)
    kind = MODEL_CONFIGS.get(getattr(model, "method", ""))
    if kind is not None:
        known = ", ".join(f"``{field.name}``" for field in fields(kind))
        link = f":class:`~glscl.config.{kind.__name__}`"
        yield from (f"``{argument}``: any of {known}; see {link}.", "")


def table(kind: type) -> Iterator[str]:
    """The fields of a settings class as a table in reStructuredText."""
    from glscl.util.settings import described, field_types

    types, said = field_types(kind), meanings(kind)
    yield from (".. list-table::", "   :header-rows: 1", "")
    yield from _row(HEAD)
    for field in fields(kind):
        value = shown(field.default)
        source = source_of(kind, field.name, field.default)
        allowed = re.sub(r"'(\w+)'", r"``\1``", described(types[field.name]))
        yield from _row(
            (f"``{field.name}``", allowed, f"``{value}``", said[field.name], source)
        )
    yield ""


def meanings(kind: type) -> dict[str, str]:
    """What the comments in the source say of each field, those of base classes too."""
    from sphinx.pycode import ModuleAnalyzer

    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if is_dataclass(base):
            analyzer = ModuleAnalyzer.for_module(base.__module__)
            for (owner, name), words in analyzer.find_attr_docs().items():
                if owner == base.__name__:
                    found[name] = " ".join(" ".join(words).split())
    return found


def shown(value: object) -> str:
    """A default as one writes it."""
    if value is MISSING:
        return "must be given"
    return repr(str(value)) if isinstance(value, Path) else repr(value)


def source_of(kind: type, name: str, default: object) -> str:
    """Where a default comes from: the released program, or this project.

    Of a base class of several methods' settings the values of GLSCL count.
    """
    from book.kit.settings_table import THEIRS
    from glscl.config import MODEL_CONFIGS, EncoderConfig, TrainConfig, get_preset

    if not issubclass(kind, (EncoderConfig, TrainConfig)):
        return PROJECT
    methods = [key for key, own in MODEL_CONFIGS.items() if own is kind]
    method = "glscl" if kind is EncoderConfig or not methods else methods[0]
    released = get_preset("msrvtt", "released", method).settings()[name]
    if default != released:
        return f"{PROJECT}; as released: ``{shown(released)}``"
    theirs = THEIRS.get(name) if method == "glscl" else None
    return f"as released, ``--{theirs}``" if theirs else "as released"


def _row(cells: tuple[str, ...]) -> Iterator[str]:
    for place, cell in enumerate(cells):
        yield f"   {'* -' if place == 0 else '  -'} {cell}"
