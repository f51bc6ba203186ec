"""Tables of your own data: a row a caption, with the columns path, caption and split.

``split`` (train, val or test) may be left out, see ``benchmarks.load_table``. A video
with several captions has several rows; other columns are ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glscl.data.annotations import (
    AnnotationError,
    Captions,
    caption,
    field,
    numbered,
    read_json,
    read_rows,
    read_text,
)

if TYPE_CHECKING:
    from pandas import DataFrame

SUFFIXES = (".csv", ".json", ".jsonl")
SPLITS = ("train", "val", "test")
ALL = "all"  # of a table that names no splits


def is_table(name: str) -> bool:
    """Whether ``name`` is the file of a table and not that of a benchmark."""
    return Path(name).suffix.lower() in SUFFIXES


def read_table(table: str | Path | DataFrame, root: str | Path) -> dict[str, Captions]:
    """The captions of each split by video, a path relative to ``root``.

    ``table``: a CSV file with a header, a JSON file with a list of objects, a JSONL file
    with an object a line, or a pandas ``DataFrame``. Without a column ``split`` every
    video is in the split ``ALL``.

    Raises ``AnnotationError`` for a missing file or column, an empty path or caption, a
    path outside ``root``, an unknown split, a row that is there twice, a video that is
    in two splits, and a table without a row.
    """
    rows = list(_rows(table))
    if not rows:
        raise AnnotationError(f"{table_name(table)}: there is no row.")
    with_split = any("split" in row for _, row in rows)
    splits: dict[str, Captions] = {}
    split_of: dict[str, str] = {}
    for where, row in rows:
        video = _below(root, field(row, "path", str, where), where)
        text = caption(field(row, "caption", str, where), where)
        split = field(row, "split", str, where).strip() if with_split else ALL
        if with_split and split not in SPLITS:
            raise AnnotationError(
                f"{where}: split {split!r}, expected one of {list(SPLITS)}."
            )
        if split_of.setdefault(video, split) != split:
            raise AnnotationError(
                f"{where}: {video} is in {split} here and in {split_of[video]} above; "
                "splits must not overlap."
            )
        texts = splits.setdefault(split, {}).setdefault(video, [])
        if text in texts:
            raise AnnotationError(f"{where}: {video} has the caption {text!r} twice.")
        texts.append(text)
    return splits


def table_name(table: Any) -> str:
    """What errors call a table: its file, or that it is none."""
    return str(table) if isinstance(table, (str, Path)) else "the table"


def _rows(table: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows, each after its place."""
    if not isinstance(table, (str, Path)):
        return numbered(table.to_dict("records"), "the table, row")
    path = Path(table)
    kind = path.suffix.lower()
    if kind == ".csv":
        return read_rows(path, ["path", "caption"])
    if kind == ".json":
        return numbered(read_json(path, list), f"{path}, entry")
    if kind == ".jsonl":
        return _json_lines(path)
    raise AnnotationError(
        f"{path}: a table is one of {', '.join(SUFFIXES)}, or a pandas DataFrame."
    )


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for where, line in numbered(read_text(path).split("\n"), f"{path}, line"):
        if line.strip():
            try:
                yield where, json.loads(line)
            except json.JSONDecodeError as error:
                raise AnnotationError(f"{where}: not JSON: {error.msg}.") from error


def _below(root: str | Path, path: str, where: str) -> str:
    """A path as the table has it, relative to ``root``."""
    if not path.strip():
        raise AnnotationError(f"{where}: the path is empty.")
    name = os.path.relpath(Path(root, path.strip()), root)
    if name.split(os.sep)[0] == os.pardir:
        raise AnnotationError(f"{where}: {path} lies outside the folder {root}.")
    return Path(name).as_posix()
