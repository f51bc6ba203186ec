"""Annotation files read entry by entry; errors name the file and the place in it."""

from __future__ import annotations

import csv
import io
import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

Captions = dict[str, list[str]]


class AnnotationError(ValueError):
    """An annotation file is missing or bad: names the file, the place, what it needs."""


def read_text(path: Path) -> str:
    """The UTF-8 text of an annotation file; a byte order mark is no part of it."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise AnnotationError(f"{path} is missing.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise AnnotationError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; "
            "convert the file to UTF-8."
        ) from error


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
    names = list(columns)
    if not header:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, strict=True)  # refuses a quote that is not closed
        names = [name.strip() for name in next(_rows(reader, path), [])]
        for name in columns:
            if names.count(name) != 1:
                number = "two columns" if name in names else "no column"
                raise AnnotationError(
                    f"{path}, line 1: {number} {name!r}, found {names}; expected "
                    f"{list(columns)}."
                )
    for values in _rows(reader, path):
        if not values:
            continue
        where = f"{path}, line {reader.line_num}"
        if len(values) != len(names):
            raise AnnotationError(
                f"{where}: {len(values)} values, expected {len(names)}: "
                f"{', '.join(names)}."
            )
        stripped = (value.strip() for value in values)
        yield where, dict(zip(names, stripped, strict=True))


def _rows(reader: Any, path: Path) -> Iterator[list[str]]:
    """The rows of a reader of the module csv, whose errors say where they are."""
    start = reader.line_num + 1
    try:
        for row in reader:
            yield row
            start = reader.line_num + 1
    except csv.Error as error:
        raise AnnotationError(
            f"{path}, line {start}: a quote is not closed, or a value is too long: "
            f"{error}."
        ) from error


def read_ids(path: Path) -> list[str]:
    """One id a line, none twice."""
    first: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        name = line.strip()
        if name in first:
            raise AnnotationError(
                f"{path}, line {number}: id {name!r} is there twice, first in line "
                f"{first[name]}."
            )
        if name:
            first[name] = number
    return list(first)


def read_json(path: Path, kind: type[dict] | type[list]) -> Any:
    """A JSON file whose outermost value is a ``kind``; its keys occur once."""
    return expect(parse_json(read_text(path), path), kind, str(path))


def parse_json(text: str, path: Path, line: int | None = None) -> Any:
    """The value of a file, or of a line of it; its keys occur once."""
    where = str(path) if line is None else f"{path}, line {line}"

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise AnnotationError(f"{where}: the entry {twice!r} is there twice.")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except AnnotationError:
        raise
    except json.JSONDecodeError as error:
        raise AnnotationError(
            f"{path}, line {line or error.lineno}: not JSON: {error.msg}."
        ) from error
    except (ValueError, RecursionError) as error:  # a long number, or deep nesting
        raise AnnotationError(f"{where}: not read as JSON: {error}.") from error


def expect(value: Any, kind: type | tuple[type, ...], where: str) -> Any:
    """``value``, if it is of ``kind``."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(one.__name__ for one in kinds)
        raise AnnotationError(f"{where}: expected a {names}, found {value!r:.80}.")
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
    """A JSON file ``{id: [sentence, ...]}``."""
    return _captions(path, read_json(path, dict), lambda text, where: text)


def _captions(
    path: Path, content: dict, sentence: Callable[[Any, str], Any]
) -> Captions:
    """Captions by id; ``sentence``: of an entry and its place."""
    result: Captions = {}
    for name, texts in content.items():
        where = f"{path}, {name}"
        places = numbered(expect(texts, list, where), f"{where}, caption")
        result[expect(name, str, str(path))] = [
            caption(sentence(text, place), place) for place, text in places
        ]
    return result


class _PlainUnpickler(pickle.Unpickler):
    """Reads dictionaries, lists, texts and numbers; whatever needs a name is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read_pickled_captions(path: Path) -> Captions:
    """A pickle ``{id: [[token, ...], ...]}``, read without ever running code from it."""
    try:
        with path.open("rb") as file:
            content = _PlainUnpickler(file, encoding="utf-8").load()
    except FileNotFoundError as error:
        raise AnnotationError(f"{path} is missing.") from error
    except Exception as error:  # a broken pickle raises nearly anything
        raise AnnotationError(
            f"{path} is not a pickle of dictionaries, lists and texts: {error}."
        ) from error

    def sentence(tokens: Any, where: str) -> str:
        return " ".join(expect(t, str, where) for t in expect(tokens, list, where))

    return _captions(path, expect(content, dict, str(path)), sentence)
