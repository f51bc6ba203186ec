"""Annotation files read entry by entry; errors name the file and the place in it."""

from __future__ import annotations

import csv
import io
import json
import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

Captions = dict[str, list[str]]
T = TypeVar("T")


class AnnotationError(ValueError):
    """An annotation file is missing or bad: names the file, the place, what it needs."""


def read_text(path: Path) -> str:
    """The UTF-8 text of an annotation file; a byte order mark is no part of it."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise AnnotationError(f"{path} is missing.") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise AnnotationError(
            f"{path}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8; "
            "convert the file to UTF-8."
        ) from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, without blanks around them, each after its number."""
    for number, line in enumerate(io.StringIO(read_text(path), newline=None), start=1):
        if line.strip():
            yield number, line.strip()


def read_rows(
    path: Path, columns: Sequence[str], header: bool = True
) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a table: the place of each and its values, without blanks around
    them, by column.

    With a ``header`` the file names its columns and must have all of ``columns``;
    without one ``columns`` are the names, and values are separated by tabs, unquoted.
    """
    # Lines end at line feeds only, not at the other separators of Unicode.
    lines = io.StringIO(read_text(path), newline="")
    names, done = list(columns), 0
    if header:
        reader = csv.reader(lines, strict=True)  # refuses a quote that is not closed
    else:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        if header:
            names = [name.strip() for name in next(reader, [])]
            done = reader.line_num
            for name in columns:
                if names.count(name) != 1:
                    number = "two columns" if name in names else "no column"
                    raise AnnotationError(
                        f"{path}, line 1: {number} {name!r}, found {names}; expected "
                        f"{list(columns)}."
                    )
        for values in reader:
            done = reader.line_num
            if values and len(values) != len(names):
                raise AnnotationError(
                    f"{path}, line {done}: {len(values)} values, expected "
                    f"{len(names)}: {', '.join(names)}."
                )
            if values:
                stripped = (value.strip() for value in values)
                yield f"{path}, line {done}", dict(zip(names, stripped, strict=True))
    except csv.Error as error:
        raise AnnotationError(
            f"{path}, line {done + 1}: a quote is not closed, or a value is too long: "
            f"{error}."
        ) from error


def read_ids(path: Path) -> list[str]:
    """One id a line, none twice."""
    lines = read_lines(path)
    return list(unique((f"{path}, line {n}: id", name, n) for n, name in lines))


def unique(entries: Iterable[tuple[str, str, T]]) -> dict[str, T]:
    """Values by name. An entry: what errors call it and where it is, name, value.

    Raises ``AnnotationError`` for a name that is there twice.
    """
    found: dict[str, T] = {}
    for what, name, value in entries:
        if name in found:
            raise AnnotationError(f"{what} {name!r} is there twice.")
        found[name] = value
    return found


def read_json(path: Path, kind: type[dict] | type[list]) -> Any:
    """A JSON file whose outermost value is a ``kind``; its keys occur once."""
    return expect(parse_json(read_text(path), path), kind, str(path))


def parse_json(text: str, path: Path, line: int | None = None) -> Any:
    """The value of a file, or of a line of it; its keys occur once."""
    where = str(path) if line is None else f"{path}, line {line}"
    what = f"{where}: the entry"

    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return unique((what, name, value) for name, value in pairs)

    try:
        return json.loads(text, object_pairs_hook=checked)
    except AnnotationError:
        raise
    except json.JSONDecodeError as error:
        raise AnnotationError(
            f"{path}, line {line or error.lineno}: not JSON: {error.msg}."
        ) from error
    except (ValueError, RecursionError) as error:  # a long number, or deep nesting
        raise AnnotationError(f"{where}: not read as JSON: {error}.") from error


def expect(value: Any, kind: type, where: str) -> Any:
    """``value``, if it is of ``kind``."""
    if not isinstance(value, kind):
        raise AnnotationError(
            f"{where}: expected a {kind.__name__}, found {value!r:.80}."
        )
    return value


def field(entry: Any, name: str, kind: type, where: str) -> Any:
    """The value ``name`` of an entry of a JSON file."""
    if name not in expect(entry, dict, where):
        raise AnnotationError(f"{where}: no {name!r}, found {sorted(entry)}.")
    return expect(entry[name], kind, f"{where}, {name}")


def numbered(entries: Iterable[Any], where: str) -> Iterator[tuple[str, Any]]:
    """Each entry of a list after its place: ``where`` and its number from 1."""
    return ((f"{where} {n}", entry) for n, entry in enumerate(entries, start=1))


def caption(text: Any, where: str) -> str:
    """A sentence without the blanks around it; ``AnnotationError`` for an empty one."""
    if not expect(text, str, where).strip():
        raise AnnotationError(f"{where}: the caption is empty.")
    return text.strip()


def read_captions(path: Path) -> Captions:
    """A file ``{id: [sentence, ...]}``, JSON or a pickle; a sentence may be tokens."""
    content = _read_pickle(path) if path.suffix == ".pkl" else read_json(path, dict)
    result: Captions = {}
    for name, texts in expect(content, dict, str(path)).items():
        where = f"{path}, {expect(name, str, str(path))}"
        result[name] = []
        for place, text in numbered(expect(texts, list, where), f"{where}, caption"):
            if isinstance(text, list):
                text = " ".join(expect(token, str, place) for token in text)
            result[name].append(caption(text, place))
    return result


class _PlainUnpickler(pickle.Unpickler):
    """Reads dictionaries, lists, texts and numbers; whatever needs a name is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _read_pickle(path: Path) -> Any:
    """The value of a pickle, read without ever running code from it."""
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="utf-8").load()
    except Exception as error:  # a broken pickle raises nearly anything
        raise AnnotationError(
            f"{path} is not a pickle of dictionaries, lists and texts: {error}."
        ) from error
