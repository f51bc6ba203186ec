"""An index as two Lance tables, which other programs can read too.

    windows.lance   a row a window: id, path, size, mtime_ns, start, end, times (F),
                    frames (F·D), concepts (Q·D), coarse (D)
    files.lance     a row a file that was read: path, size, mtime_ns, problem, decoder

``path`` is relative to the indexed folder; ``size`` and ``mtime_ns`` are those of the
file as it was read; ``times`` are the seconds of a window's frames, NaN where there is
none; ``coarse`` is the unit mean of its frames. Features have 16 bits a number. What all
windows have in common is in the metadata of the table.

An index is a folder, or the address of one in an object store. Every change is a
transaction of Lance: a reader keeps the version that it has opened, a killed writer
leaves the last one, and writers at the same time are rebased on each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glscl.search.moment import FileState

try:
    import lance
    import pyarrow as pa
except ImportError as missing:
    raise RuntimeError(
        "Searching needs Lance: pip install 'glscl[search]'."
    ) from missing

FORMAT = "glscl video index 3"
WINDOWS, FILES = "windows.lance", "files.lance"
#: Lance keeps two writers from adding the same value twice only in a declared key.
KEY = {"lance-schema:unenforced-primary-key": "true"}
#: Windows; with fewer, comparing with all takes a few milliseconds.
APPROXIMATE_FROM = 100_000
PROBED = 1.0  # share of the clusters that are searched: fewer is faster and loses some
REFINED = 2  # times k windows are compared again, by their whole vectors
SAMPLED = 64  # windows a cluster from which the clusters are learnt
REBUILD_FRACTION = 0.1  # share of new windows from which the clusters are made again
METRIC = "cosine"
KEPT_VERSIONS = timedelta(hours=1)  # for readers that have an older version open
READ_ROWS = 4096  # windows in memory while all are read
RETRIES = 20  # of a transaction that other writers come before
NAMES_AT_ONCE = 500  # file names in one condition

Rows = NDArray[np.int64]  # numbers of windows in one version of the table, from 0
Half = NDArray[np.float16]


class FileRecord(NamedTuple):
    """What is known of a file: its state, why it cannot be read, and with what it was."""

    state: FileState
    problem: str = ""
    decoder: str = ""


class About(NamedTuple):
    """What all windows of an index have in common.

    ``folder``: whose videos; ``model``: what identifies it; ``windows``: how videos were
    cut; F frames and Q concepts of D numbers a window.
    """

    folder: str
    model: dict[str, Any]
    windows: dict[str, float]
    F: int
    Q: int
    D: int


class Features(NamedTuple):
    """Of n windows ``times`` (n, F), ``frames`` (n, F, D) and ``concepts`` (n, Q, D)."""

    times: NDArray[np.float32]
    frames: Half
    concepts: Half | None


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


# ---- one version, for reading ------------------------------------------------------


def exists(path: str) -> bool:
    """Whether there is an index at ``path``, of this or an older version."""
    try:
        return bool(_opened(path, WINDOWS))
    except FileNotFoundError:
        return False


def _opened(path: str, table: str) -> lance.LanceDataset:
    if "://" not in path and (Path(path) / "index.json").is_file():
        raise ValueError(
            f"{path} is an index of an older version: delete it, and make it again with "
            f"glscl index FOLDER --index {path}."
        )
    try:
        with sentences(path):
            return lance.dataset(f"{path}/{table}")
    except (ValueError, OSError) as error:
        if "not found" not in str(error).lower():
            raise
        raise FileNotFoundError(f"{path} holds no video index.") from error


class Snapshot:
    """The last version of an index, for reading. A *row* numbers its windows from 0.

    Raises ``FileNotFoundError`` where there is no index, ``ValueError`` for one of
    another format.
    """

    def __init__(self, path: str):
        self.path, self.table = path, _opened(path, WINDOWS)
        metadata = self.table.schema.metadata or {}
        content = json.loads(metadata.get(b"glscl", b"{}"))
        if content.pop("format", None) != FORMAT:
            raise ValueError(
                f"{path} does not hold a video index of the present format."
            )
        self.about = About(**content)

    def __len__(self) -> int:
        return self.table.count_rows()

    def is_latest(self) -> bool:
        """Whether nothing was written since."""
        with sentences(self.path):
            return self.table.version == self.table.latest_version

    def read(self, rows: Rows, columns: Sequence[str]) -> pa.Table:
        """Columns of windows, in the order of ``rows`` (n,)."""
        with sentences(self.path):
            return self.table.take(rows, columns=list(columns))

    @property
    def columns(self) -> list[str]:
        """The columns that hold a window's features."""
        return ["times", "frames", *(["concepts"] if self.about.Q else [])]

    def features(self, rows: Rows) -> Features:
        """The features of ``rows`` (n,)."""
        return self.unpacked(self.read(rows, self.columns))

    def unpacked(self, table: Any) -> Features:
        """The features in a table or batch that has ``columns``."""
        F, D = self.about.F, self.about.D
        frames = numbers(table["frames"]).reshape(-1, F, D)
        concepts = None
        if self.about.Q:
            concepts = numbers(table["concepts"]).reshape(-1, self.about.Q, D)
        return Features(numbers(table["times"]).reshape(-1, F), frames, concepts)

    def coarse(self, rows: Rows) -> Half:
        """Unit means of the frames of ``rows`` (n,): (n, D)."""
        return numbers(self.read(rows, ["coarse"])["coarse"]).reshape(len(rows), -1)

    def nearest(
        self,
        query: NDArray[np.floating],
        k: int,
        where: str = "",
        probe: float = PROBED,
    ) -> Rows:
        """The k windows whose coarse vectors are nearest to a unit ``query`` (D,).

        Best first, fewer where there are no more. ``where``: a condition of SQL on the
        columns. ``probe``: share of the clusters that are searched, if there are any.
        """
        wanted = {"column": "coarse", "q": query, "k": k, "metric": METRIC}
        if self.indexed:
            wanted["nprobes"] = max(1, round(probe * clusters(self.indexed)))
            wanted["refine_factor"] = REFINED
        with sentences(self.path):
            found = self.table.scanner(
                columns=["_rowoffset", "_distance"],
                nearest=wanted,
                filter=where or None,
                prefilter=True,
            ).to_table()
        return found["_rowoffset"].to_numpy().astype(np.int64)

    @cached_property
    def indexed(self) -> int:
        """How many windows the approximate index holds, 0 without one."""
        return _indexed(self.table)

    def spans(self, where: str = "") -> Iterator[tuple[Rows, Features]]:
        """All windows in order, in parts: rows (n,) and their features.

        ``where``: a condition of SQL on the columns.
        """
        scanner = self.table.scanner(
            columns=[*self.columns, "_rowoffset"],
            filter=where or None,
            batch_size=READ_ROWS,
            batch_readahead=2,
        )
        with sentences(self.path):
            for batch in scanner.to_batches():
                rows = batch["_rowoffset"].to_numpy().astype(np.int64)
                yield rows, self.unpacked(batch)


def numbers(column: Any) -> NDArray[Any]:
    """A column of lists of numbers as one flat array."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).copy()  # writable


def quoted(text: str) -> str:
    """``text`` as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


# ---- writing -----------------------------------------------------------------------


def create(path: str, about: About) -> None:
    """Make an empty index; nothing where another process just did."""
    F, Q, D = about.F, about.Q, about.D
    lists = {"times": (F, pa.float32()), "frames": (F * D, pa.float16())}
    lists |= {"concepts": (Q * D, pa.float16())} if Q else {}
    lists |= {"coarse": (D, pa.float16())}
    state = [("size", pa.int64()), ("mtime_ns", pa.int64())]
    windows = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False, metadata=KEY),
            ("path", pa.string()),
            *state,
            ("start", pa.float32()),
            ("end", pa.float32()),
            *((name, pa.list_(kind, size)) for name, (size, kind) in lists.items()),
        ],
        metadata={"glscl": json.dumps({"format": FORMAT, **about._asdict()})},
    )
    key = pa.field("path", pa.string(), nullable=False, metadata=KEY)
    texts = [("problem", pa.string()), ("decoder", pa.string())]
    files = pa.schema([key, *state, *texts])
    for name, schema in ((FILES, files), (WINDOWS, windows)):
        try:
            with sentences(path):
                lance.write_dataset(schema.empty_table(), f"{path}/{name}")
        except OSError as error:
            if "already exists" not in str(error):
                raise


def read_files(path: str) -> dict[str, FileRecord]:
    """What the index knows of files, by path."""
    with sentences(path):
        columns = _opened(path, FILES).to_table().to_pydict()
    return {
        name: FileRecord(FileState(size, mtime), problem, decoder)
        for name, size, mtime, problem, decoder in zip(*columns.values(), strict=True)
    }


def write_files(
    path: str, records: Mapping[str, FileRecord], windows: Iterable[Mapping[str, Any]]
) -> None:
    """Replace what the index has of these files; ``windows``: the columns of theirs.

    Windows first: a kill between the two transactions makes the next build read these
    files again, which changes nothing.
    """
    table = _opened(path, WINDOWS)
    schema, names = table.schema, list(records)
    new = pa.Table.from_batches([as_batch(part, schema) for part in windows], schema)
    with sentences(path):
        _merge(table, "id", new, f"path IN ({', '.join(map(quoted, names))})")
        files = _opened(path, FILES)
        states = [(name, *r.state, r.problem, r.decoder) for name, r in records.items()]
        columns = zip(files.schema, zip(*states, strict=True), strict=True)
        arrays = [pa.array(values, field.type) for field, values in columns]
        _merge(files, "path", pa.table(arrays, schema=files.schema))


def as_batch(columns: Mapping[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    """Columns of windows, lists of numbers as arrays (n, ...), as Lance takes them."""
    arrays = [_column(columns[field.name], field.type) for field in schema]
    return pa.record_batch(arrays, schema=schema)


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, kind.list_size)


def _merge(table: lance.LanceDataset, key: str, new: pa.Table, gone: str = "") -> None:
    """Add rows or replace those of the same key; delete others that are ``gone``."""
    merge = (
        table.merge_insert(key).when_matched_update_all().when_not_matched_insert_all()
    )
    if gone:
        merge = merge.when_not_matched_by_source_delete(gone)
    merge.conflict_retries(RETRIES).execute(new)


def forget_files(path: str, names: Sequence[str]) -> None:
    """Delete all that the index has of these files."""
    for first in range(0, len(names), NAMES_AT_ONCE):
        part = ", ".join(map(quoted, names[first : first + NAMES_AT_ONCE]))
        with sentences(path):
            for table in (WINDOWS, FILES):
                _opened(path, table).delete(f"path IN ({part})")


# ---- maintenance -------------------------------------------------------------------


def clusters(N: int) -> int:
    """How many clusters N windows are divided into: half of √N."""
    return max(1, round(N**0.5 / 2))


def _indexed(table: lance.LanceDataset) -> int:
    found = [i for i in table.describe_indices() if "coarse" in i.field_names]
    return found[0].num_rows_indexed if found else 0


def maintain(path: str) -> None:
    """Join small parts, renew the approximate index if it is due, drop old versions."""
    with sentences(path):
        for name in (WINDOWS, FILES):
            table = _opened(path, name)
            table.optimize.compact_files()
            if name == WINDOWS and _is_due(table):
                _write_approximate(table)
            table.cleanup_old_versions(older_than=KEPT_VERSIONS)


def _is_due(table: lance.LanceDataset) -> bool:
    """Whether the approximate index is missing, or too many windows are not in it."""
    N = table.count_rows()
    return N >= APPROXIMATE_FROM and N - _indexed(table) > REBUILD_FRACTION * N


def _write_approximate(table: lance.LanceDataset) -> None:
    """Clusters of the coarse vectors, in which these are stored with few bits a number."""
    table.create_index(
        "coarse",
        "IVF_RQ",
        metric=METRIC,
        num_partitions=clusters(table.count_rows()),
        sample_rate=SAMPLED,
        replace=True,
    )
