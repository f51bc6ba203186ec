"""An index as two Lance tables, which other programs can read too.

    windows.lance   a row a window: id, path, size, mtime_ns, start, end, times (F,),
                    coarse (C,) and the model's features, for GLSCL frames (F, D) and
                    concepts (Q, D)
    files.lance     a row a file that was read: path, size, mtime_ns, problem, decoder

``path`` is relative to the indexed folder; ``size`` and ``mtime_ns`` are those of the
file as it was read; ``times`` are the seconds of a window's frames, NaN where there is
none. Features are Arrow's tensors of a fixed shape, with 16 bits a number. What all
windows have in common is in the metadata.

An index is a folder, or the address of one in an object store. Every change is a
transaction of Lance: a reader keeps the version that it has opened, a killed writer
leaves the last one, and writers at the same time are rebased on each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glscl.data.videofiles import State

try:
    import lance
    import pyarrow as pa
except ImportError as missing:
    raise RuntimeError(
        "Searching needs Lance: pip install 'glscl[search]'."
    ) from missing

FORMAT = "glscl video index 5"
WINDOWS, FILES = "windows.lance", "files.lance"
#: Lance keeps two writers from adding the same value twice only in a declared key.
KEY = {"lance-schema:unenforced-primary-key": "true"}
#: Windows; with fewer, comparing with all takes about ten milliseconds.
APPROXIMATE_FROM = 5_000
PROBED = 1.0  # share of the clusters that are searched: fewer is faster and loses some
SAMPLED = 64  # windows a cluster from which the clusters are learnt
REBUILD_FRACTION = 0.1  # share of new windows from which the clusters are made again
METRIC = "dot"
KEPT_VERSIONS = timedelta(hours=1)  # for readers that have an older version open
READ_NUMBERS = 40_000_000  # of features in memory at a time
RETRIES = 20  # of a transaction that other writers come before

Rows = NDArray[np.int64]  # numbers of windows in one version of the table, from 0
Columns = dict[str, Any]  # of n windows, by name: lists of n, or arrays (n, ...)


class FileRecord(NamedTuple):
    """What is known of a file: its state, why it cannot be read, and with what it was."""

    size: int
    mtime_ns: int
    problem: str = ""
    decoder: str = ""

    @property
    def state(self) -> State:
        """By which a changed file is recognised."""
        return self.size, self.mtime_ns


class About(NamedTuple):
    """Of all windows: whose videos, what identifies the model, how videos were cut."""

    folder: str
    model: dict[str, Any]
    windows: dict[str, float]


#: A byte of a file name that is not UTF-8 is stored as a character that no name has.
_STORED = {0xDC00 + byte: 0x10FF00 + byte for byte in range(0x80, 0x100)}
_NAMED = {stored: byte for byte, stored in _STORED.items()}


def stored_path(path: str) -> str:
    """A path as the tables hold it, in valid UTF-8."""
    return path.translate(_STORED)


def named_path(path: str) -> str:
    """The path that ``stored_path`` was given."""
    return path.translate(_NAMED)


@contextmanager
def sentences(path: str) -> Iterator[None]:
    """Errors of Lance as one sentence, without the places in its source."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        text = str(error)
        if "No space left" in text or "StorageFull" in text:
            raise OSError(f"The disk is full: nothing was lost of {path}.") from error
        if ".rs:" not in text:
            raise
        reason = re.sub(r",? ?/\S+\.rs:\d+:\d+.*", "", text.splitlines()[0])
        raise OSError(f"The index {path}: {reason}") from error


# ---- reading -----------------------------------------------------------------------


class Snapshot:
    """The last version of an index, for reading. A *row* numbers its windows from 0.

    Raises ``FileNotFoundError`` where there is no index, ``ValueError`` for one of
    another format.
    """

    def __init__(self, path: str):
        content: dict[str, Any] = {}
        older = "://" not in path and Path(path, "index.json").is_file()
        if not older:
            self.table = _opened(path, WINDOWS)
            metadata = self.table.schema.metadata or {}
            content = json.loads(metadata.get(b"glscl", b"{}"))
        if content.pop("format", None) != FORMAT:
            raise ValueError(
                f"{path} holds no index of the present format, perhaps one of an older "
                f"version: delete it, and make it again with glscl index FOLDER --index "
                f"{path}."
            )
        self.about = About(**content)
        #: How many numbers a window has in ``times`` and in each of the features.
        self.sizes = {
            field.name: field.type.storage_type.list_size
            for field in self.table.schema
            if isinstance(field.type, pa.FixedShapeTensorType)
            and field.name != "coarse"
        }
        self._at_once = max(1, READ_NUMBERS // sum(self.sizes.values()))

    def __len__(self) -> int:
        return self.table.count_rows()

    @cached_property
    def indexed(self) -> int:
        """How many windows the approximate index holds, 0 without one."""
        indices = self.table.describe_indices()
        return sum(i.num_rows_indexed for i in indices if "coarse" in i.field_names)

    def features(self, rows: Rows, *names: str) -> Columns:
        """``times`` and the features of ``rows`` (n,), or the tensors of these names."""
        wanted = [*(names or self.sizes)]
        found = self.table.take(rows, columns=wanted)
        return {n: found[n].combine_chunks().to_numpy_ndarray() for n in wanted}

    def nearest(self, query: NDArray[np.floating], k: int, where: str = "") -> Rows:
        """The k windows whose coarse vectors have the largest products with (C,).

        Fewer where there are no more. The approximate index knows the vectors roughly: it
        may miss some of the last. ``where``: a condition of SQL on the columns.
        """
        k = min(k, len(self))
        wanted = {"column": "coarse", "q": query, "k": k, "metric": METRIC}
        if self.indexed:
            wanted["nprobes"] = max(1, round(PROBED * clusters(self.indexed)))
        columns = ["_rowoffset", "_distance"]
        found = self.table.to_table(
            columns, filter=where or None, nearest=wanted, prefilter=True
        )
        return found["_rowoffset"].to_numpy().astype(np.int64)

    def parts(self, rows: Rows) -> Iterator[tuple[Rows, Columns]]:
        """``rows`` (n,) and their features, so many at a time as fit in memory."""
        for first in range(0, len(rows), self._at_once):
            part = rows[first : first + self._at_once]
            yield part, self.features(part)

    def spans(self, where: str = "") -> Iterator[tuple[Rows, Columns]]:
        """``parts`` of all windows in order; ``where``: a condition of SQL on columns."""
        batches = self.table.to_batches(
            columns=[*self.sizes, "_rowoffset"],
            filter=where or None,
            batch_size=self._at_once,
            batch_readahead=2,
        )
        for batch in batches:
            rows = batch["_rowoffset"].to_numpy().astype(np.int64)
            yield rows, {name: batch[name].to_numpy_ndarray() for name in self.sizes}


def _opened(path: str, table: str) -> lance.LanceDataset:
    try:
        with sentences(path):
            return lance.dataset(f"{path}/{table}")
    except (ValueError, OSError) as error:
        if "not found" not in str(error).lower():
            raise
        raise FileNotFoundError(f"{path} holds no video index.") from error


def quoted(text: str) -> str:
    """``text`` as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _in(paths: Iterable[str]) -> str:
    return f"path IN ({', '.join(map(quoted, paths))})"


# ---- writing -----------------------------------------------------------------------


def create(path: str, about: About, features: Columns) -> None:
    """Make an empty index; nothing where another process just did.

    ``features``: the columns of any window that are arrays, for their shapes.
    """

    def key(name: str) -> pa.Field:
        return pa.field(name, pa.string(), nullable=False, metadata=KEY)

    state = [("size", pa.int64()), ("mtime_ns", pa.int64())]
    windows = [key("id"), ("path", pa.string()), *state]
    windows += [("start", pa.float32()), ("end", pa.float32())]
    windows += [(name, _tensors(values).type) for name, values in features.items()]
    metadata = {"glscl": json.dumps({"format": FORMAT, **about._asdict()})}
    files = [key("path"), *state, ("problem", pa.string()), ("decoder", pa.string())]
    schemas = {FILES: pa.schema(files), WINDOWS: pa.schema(windows, metadata)}
    for name, schema in schemas.items():
        try:
            lance.write_dataset([], f"{path}/{name}", schema=schema)
        except OSError as error:
            if "already exists" not in str(error):
                raise


def read_files(path: str) -> dict[str, FileRecord]:
    """What the index knows of files, by path."""
    rows = _opened(path, FILES).to_table().to_pylist()
    return {row.pop("path"): FileRecord(**row) for row in rows}


def write_files(
    path: str, records: Mapping[str, FileRecord], windows: Mapping[str, Columns]
) -> None:
    """Replace what the index has of these files; ``windows``: the columns of some.

    Windows first: a kill between the two transactions makes the next build read these
    files again, which changes nothing.
    """
    table, files = _opened(path, WINDOWS), _opened(path, FILES)
    parts = [pa.Table.from_batches([], table.schema)]
    for name, columns in windows.items():
        n, (size, mtime_ns) = len(columns["times"]), records[name].state
        ids = {"id": [f"{name}#{i}" for i in range(n)], "path": [name] * n}
        state = {"size": [size] * n, "mtime_ns": [mtime_ns] * n}
        parts.append(as_table(ids | state | columns, table.schema))
    others = _merge(table, "id").when_not_matched_by_source_delete(_in(records))
    others.execute(pa.concat_tables(parts))
    rows = [{"path": name, **record._asdict()} for name, record in records.items()]
    _merge(files, "path").execute(pa.Table.from_pylist(rows, files.schema))


def as_table(columns: Columns, schema: pa.Schema) -> pa.Table:
    """Columns of windows as Lance takes them."""
    tensors = {n: _tensors(x) for n, x in columns.items() if np.ndim(x) > 1}
    return pa.table(columns | tensors, schema=schema)


def _tensors(values: NDArray[Any]) -> pa.FixedShapeTensorArray:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))


def _merge(table: lance.LanceDataset, key: str) -> Any:
    """A transaction that adds rows, or replaces those of the same key."""
    merge = table.merge_insert(key).conflict_retries(RETRIES)
    return merge.when_matched_update_all().when_not_matched_insert_all()


def forget_files(path: str, names: Collection[str]) -> None:
    """Delete all that the index has of these files."""
    if names:
        for table in (WINDOWS, FILES):
            _opened(path, table).delete(_in(names))


# ---- maintenance -------------------------------------------------------------------


def clusters(N: int) -> int:
    """How many clusters N windows are divided into: half of √N."""
    return max(1, round(N**0.5 / 2))


def maintain(path: str) -> None:
    """Join small parts, renew the approximate index if it is due, drop old versions.

    The approximate index is missing, or too many windows are not in it: then clusters of
    the coarse vectors are made, in which these are stored with few bits a number.
    """
    for name in (WINDOWS, FILES):
        _opened(path, name).optimize.compact_files()
    snapshot = Snapshot(path)
    N, new = len(snapshot), len(snapshot) - snapshot.indexed
    if N >= APPROXIMATE_FROM and new > REBUILD_FRACTION * N:
        options: dict[str, Any] = {"num_partitions": clusters(N), "metric": METRIC}
        options |= {"sample_rate": SAMPLED, "replace": True}
        snapshot.table.create_index("coarse", "IVF_RQ", **options)
    for name in (WINDOWS, FILES):
        _opened(path, name).cleanup_old_versions(older_than=KEPT_VERSIONS)
