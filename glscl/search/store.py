"""An index on disk: segments that never change, and one small file that names them.

    index.json               names the segments that are valid; replaced by one rename
    segments/NAME/           written once, under another name, then renamed
        rows.npy             (N,) ROW: one record a window
        times.npy            (N, F) float32: seconds at which its frames are, NaN: none
        features.npy         (N, F + Q, D) float16: its frames, then its concepts
        coarse.npy           (N, D) float16: unit mean of its frames
        files.npy, paths.npy (M,) FILE, and the UTF-8 paths, concatenated
    coarse-NAME.faiss        the approximate index of a large collection

A window has a number, its *id*, that is never used again; ids grow from row to row and
from segment to segment. Windows that are no longer valid are listed in ``index.json`` as
ranges of ids, and leave the disk when segments are merged. A reader keeps the files that
it has opened, also after they are deleted, so it reads one state to the end.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from glscl.util.files import write_json

FORMAT = "glscl video index 2"
MANIFEST = "index.json"
ROW = np.dtype(
    [
        ("id", "<i8"),
        ("file", "<i4"),
        ("frames", "<i4"),
        ("start", "<f4"),
        ("end", "<f4"),
    ]
)
FILE = np.dtype([("path_end", "<i8"), ("size", "<i8"), ("mtime_ns", "<i8")])
MERGE = 16  # this many segments of similar size become one
COPY_ROWS = 4096  # windows held in memory while segments are copied or read through

Rows = NDArray[np.int64]  # numbers of windows, counted through all segments
Mask = NDArray[np.bool_]  # for every row whether it is meant
Half = NDArray[np.float16]


class FileState(NamedTuple):
    """By what a changed file is recognised: bytes, and nanoseconds of its last change."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """The present state; of a link that leads nowhere, that of the link.

        Raises ``OSError`` where there is no such file.
        """
        try:
            stat = path.stat()
        except OSError:
            stat = path.lstat()
        return cls(stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True)
class Manifest:
    """All of ``index.json``. ``F``, ``Q``, ``D``: the sizes of a window's features."""

    folder: str  # whose videos these are
    model: dict[str, Any]  # which model made the features
    windows: dict[str, float]  # how videos were cut
    F: int
    Q: int
    D: int
    segments: tuple[str, ...] = ()
    next_segment: int = 0
    next_id: int = 0
    dropped: tuple[tuple[int, int], ...] = ()  # ids from … up to, but without, …
    broken: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    approximate: dict[str, Any] | None = None  # what ``write_approximate`` returned
    format: str = FORMAT


def read_manifest(path: Path) -> Manifest:
    """The manifest of the index at ``path``.

    Raises ``FileNotFoundError`` where there is none, ``ValueError`` for one of another
    version or that is no manifest.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"{path} holds no video index: {file} is missing.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found = content["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not describe a video index.") from error
    if found != FORMAT:
        raise ValueError(
            f"{file} has the format {found!r}, expected {FORMAT!r}: make the index again."
        )
    if content.keys() != {one.name for one in fields(Manifest)}:
        raise ValueError(f"{file} does not describe a video index.")
    content["segments"] = tuple(content["segments"])
    content["dropped"] = tuple((first, last) for first, last in content["dropped"])
    content["broken"] = {name: tuple(why) for name, why in content["broken"].items()}
    return Manifest(**content)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Make ``manifest`` the state of the index at ``path``, by one rename."""
    write_json(path / MANIFEST, asdict(manifest))


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Keep other writers away from an index until the block ends or the process does.

    Raises ``RuntimeError`` where another process is writing.
    """
    path.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise RuntimeError(f"Another process is writing the index {path}.") from error


# ---- segments ----------------------------------------------------------------------


class SegmentWriter:
    """A segment of ``N`` windows that becomes visible when the block ends well."""

    def __init__(self, path: Path, name: str, N: int, manifest: Manifest):
        F, Q, D = manifest.F, manifest.Q, manifest.D
        self.final = path / "segments" / name
        self.partial = path / "segments" / f".{name}"
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)

        def column(name: str, dtype: Any, *shape: int) -> np.memmap:
            file = self.partial / f"{name}.npy"
            return np.lib.format.open_memmap(file, "w+", dtype, (N, *shape))

        self.rows = column("rows", ROW)
        self.times = column("times", np.float32, F)
        self.features = column("features", np.float16, F + Q, D)
        self.coarse = column("coarse", np.float16, D)
        self.filled = 0
        self.paths: list[bytes] = []
        self.states: list[FileState] = []

    def add_files(self, paths: Sequence[str], states: Sequence[FileState]) -> None:
        """Name the files that windows refer to by number, from 0 in order."""
        self.paths += map(os.fsencode, paths)
        self.states += states

    def add(
        self, rows: NDArray, times: NDArray, features: NDArray, coarse: NDArray
    ) -> None:
        """Append windows: (n,) ROW, (n, F), (n, F + Q, D) and (n, D)."""
        where = slice(self.filled, self.filled + len(rows))
        self.rows[where], self.times[where] = rows, times
        self.features[where], self.coarse[where] = features, coarse
        self.filled = where.stop

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self.partial, ignore_errors=True)
            return
        assert self.filled == len(self.rows), "a segment must be filled"
        for array in (self.rows, self.times, self.features, self.coarse):
            array.flush()
        files = np.empty(len(self.paths), FILE)
        files["path_end"] = np.cumsum([len(path) for path in self.paths])
        files["size"], files["mtime_ns"] = np.array(self.states, np.int64).T
        np.save(self.partial / "files.npy", files)
        blob = np.frombuffer(b"".join(self.paths), np.uint8)
        np.save(self.partial / "paths.npy", blob)
        os.rename(self.partial, self.final)


class Records:
    """Rows of a .npy file, of which only those that are wanted are read from the disk.

    A memory map would also read the neighbours of every row: where nothing is in memory
    yet, a hundred times as many bytes.
    """

    def __init__(self, path: Path):
        view = np.load(path, mmap_mode="r")
        self.dtype, self.shape, self.offset = view.dtype, view.shape, view.offset
        self.row_bytes = view[:1].nbytes
        self.file = path.open("rb", buffering=0)
        self._advise(0, 0, "POSIX_FADV_RANDOM")

    def _advise(self, start: int, size: int, advice: str) -> None:
        if hasattr(os, "posix_fadvise"):  # Linux
            os.posix_fadvise(self.file.fileno(), start, size, getattr(os, advice))

    def read(self, rows: Rows) -> NDArray:
        """The rows (n,), best in ascending order: (n, ...). Neighbours are read at once.

        Raises ``OSError`` where the file is shorter than its header says.
        """
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        gaps = np.flatnonzero(np.diff(rows) != 1) + 1
        runs = [
            (self.offset + int(rows[first]) * self.row_bytes, out[first:last])
            for first, last in pairwise([0, *gaps.tolist(), len(rows)])
            if first < last
        ]
        for start, part in runs:  # all are requested before the first is read
            self._advise(start, part.nbytes, "POSIX_FADV_WILLNEED")
        for start, part in runs:
            self._fill(start, part)
        return out

    def _fill(self, start: int, out: NDArray) -> None:
        view = memoryview(out).cast("B")
        while view:
            if hasattr(os, "preadv"):
                count = os.preadv(self.file.fileno(), [view], start)
            else:  # Windows; not safe from several threads
                self.file.seek(start)
                count = self.file.readinto(view) or 0
            if not count:
                raise OSError(f"{self.file.name} ends too early: the index is damaged.")
            view, start = view[count:], start + count


class Segment:
    """A segment, open: small columns in memory, large ones on disk."""

    def __init__(self, folder: Path):
        self.rows = np.load(folder / "rows.npy")
        self.files = np.load(folder / "files.npy")
        self.times = Records(folder / "times.npy")
        self.features = Records(folder / "features.npy")
        self.coarse = np.load(folder / "coarse.npy", mmap_mode="r")
        self.blob = np.load(folder / "paths.npy", mmap_mode="r")
        self.ends = np.append(0, self.files["path_end"])

    def path(self, file: int) -> str:
        first, last = self.ends[file : file + 2]
        return os.fsdecode(self.blob[first:last].tobytes())

    def state(self, file: int) -> FileState:
        return FileState(*self.files[file].tolist()[1:])

    @cached_property
    def paths(self) -> list[str]:
        blob, ends = self.blob.tobytes(), self.ends.tolist()
        return [os.fsdecode(blob[first:last]) for first, last in pairwise(ends)]


class Snapshot:
    """One state of an index, for reading. A *row* counts windows through all segments.

    ``ids``, ``live``: (N,), the id of every row and whether it is still valid.
    ``first``: the first row of every segment, and N.
    """

    def __init__(self, path: Path):
        self.path = path
        for attempt in range(10):
            self.manifest = read_manifest(path)
            try:
                folders = [path / "segments" / one for one in self.manifest.segments]
                self.segments = [Segment(folder) for folder in folders]
                about = self.manifest.approximate
                self.approximate = (path / about["file"]).open("rb") if about else None
                break
            except FileNotFoundError:  # a writer has merged them meanwhile
                if attempt == 9 or read_manifest(path) == self.manifest:
                    raise
        self.first = np.cumsum([0, *(len(one.rows) for one in self.segments)])
        nothing = np.empty(0, np.int64)
        self.ids = np.concatenate([nothing, *(one.rows["id"] for one in self.segments)])
        self.live = np.ones(len(self.ids), bool)
        for low, high in self.manifest.dropped:
            start, stop = np.searchsorted(self.ids, [low, high])
            self.live[start:stop] = False

    def __len__(self) -> int:
        return int(self.live.sum())

    def records(self, rows: Rows) -> NDArray:
        """What is known of ``rows`` (n,): (n,) ROW."""
        return self._gather(rows, ROW, (), lambda s, r: s.rows[r])

    def times(self, rows: Rows) -> NDArray:
        """Seconds at which the frames of ``rows`` are, (n, F); NaN: no frame."""
        F = self.manifest.F
        return self._gather(rows, np.float32, (F,), lambda s, r: s.times.read(r))

    def features(self, rows: Rows) -> Half:
        """Frames and concepts of ``rows`` (n,), best ascending: (n, F + Q, D)."""
        shape = self.manifest.F + self.manifest.Q, self.manifest.D
        return self._gather(rows, np.float16, shape, lambda s, r: s.features.read(r))

    def coarse(self, rows: Rows) -> Half:
        """Unit means of the frames of ``rows``: (n, D)."""
        D = self.manifest.D
        return self._gather(rows, np.float16, (D,), lambda s, r: s.coarse[r])

    def _gather(
        self, rows: Rows, dtype: Any, shape: tuple[int, ...], read: Any
    ) -> NDArray:
        holders = np.searchsorted(self.first, rows, side="right") - 1
        if len(rows) and (holders == holders[0]).all():
            return read(self.segments[holders[0]], rows - self.first[holders[0]])
        out = np.empty((len(rows), *shape), dtype)
        for number in np.unique(holders):
            here = holders == number
            out[here] = read(self.segments[number], rows[here] - self.first[number])
        return out

    def by_segment(self, rows: Mask) -> Iterator[tuple[Segment, Mask]]:
        """Every segment with its part of ``rows`` (N,), a view."""
        return zip(self.segments, np.split(rows, self.first[1:-1]), strict=False)

    def spans(self, allowed: Mask | None = None) -> Iterator[tuple[Rows, Half]]:
        """All live windows in order, in parts: rows (n,) and their features.

        ``allowed``: (N,), which live rows are wanted.
        """
        wanted = self.live if allowed is None else allowed
        for first, last in pairwise(self.first):
            for part in _parts(first + wanted[first:last].nonzero()[0]):
                yield part, self.features(part)

    def file_of(self, row: int) -> tuple[str, FileState]:
        """The file that holds a window: its path, relative to the folder, and state."""
        number = int(np.searchsorted(self.first, row, side="right")) - 1
        segment = self.segments[number]
        file = int(segment.rows["file"][row - self.first[number]])
        return segment.path(file), segment.state(file)

    def path_of(self, row: int) -> str:
        """The path, relative to the folder, of the file that holds a window."""
        return self.file_of(row)[0]

    def live_files(
        self, first_segment: int = 0
    ) -> dict[str, tuple[FileState, tuple[int, int]]]:
        """Every file that has windows: its state, and the range of their ids."""
        found = {}
        for segment, live in [*self.by_segment(self.live)][first_segment:]:
            ids, files = segment.rows["id"][live], segment.rows["file"][live]
            runs = np.unique(files, return_index=True, return_counts=True)
            for file, start, count in zip(*runs, strict=True):
                span = int(ids[start]), int(ids[start + count - 1]) + 1
                found[segment.paths[file]] = segment.state(file), span
        return found


def _parts(rows: Rows) -> list[Rows]:
    """``rows`` in parts that fit into memory with their features."""
    return np.split(rows, range(COPY_ROWS, len(rows), COPY_ROWS))


# ---- maintenance -------------------------------------------------------------------


def segment_name(manifest: Manifest) -> str:
    """The name of the next segment; like an id it is never used again."""
    return f"{manifest.next_segment:06d}"


def count_to_merge(rows: Sequence[int]) -> int:
    """How many of the last segments, of ``rows`` windows each, should become one.

    A segment belongs to a level, the order of magnitude of its size in base MERGE. MERGE
    segments of one level, with the smaller ones after them, become one of the next. So
    every window is copied once a level, and there are few segments.
    """
    best, limit = 0, MERGE
    while limit <= MERGE * max(rows, default=0):
        last = [*takewhile(lambda count: count <= limit, reversed(rows))]  # noqa: B023
        if sum(count > limit // MERGE for count in last) >= MERGE:
            best = len(last)
        limit *= MERGE
    return best


def merge_segments(path: Path, snapshot: Snapshot, count: int) -> Manifest:
    """Copy what is live in the last ``count`` segments into one; the new manifest.

    Nothing is valid before the caller writes the manifest.
    """
    manifest, number = snapshot.manifest, len(snapshot.segments) - count
    segments, first = manifest.segments[:number], snapshot.first[number]
    rows = first + snapshot.live[first:].nonzero()[0]
    if len(rows):
        name = segment_name(manifest)
        segments = (*segments, name)
        files = snapshot.live_files(number)
        first_ids = [span[0] for _, span in files.values()]  # ascending
        with SegmentWriter(path, name, len(rows), manifest) as writer:
            writer.add_files(list(files), [state for state, _ in files.values()])
            for part in _parts(rows):
                new = snapshot.records(part)
                new["file"] = np.searchsorted(first_ids, new["id"], side="right") - 1
                times, features = snapshot.times(part), snapshot.features(part)
                writer.add(new, times, features, snapshot.coarse(part))
    below = int(snapshot.ids[first])
    dropped = [(low, min(high, below)) for low, high in manifest.dropped if low < below]
    return replace(
        manifest,
        segments=segments,
        next_segment=manifest.next_segment + 1,
        dropped=tuple(dropped),
    )


def clean(path: Path, manifest: Manifest) -> None:
    """Delete what ``manifest`` does not name: left by a killed writer, or merged."""
    named = {*manifest.segments, (manifest.approximate or {}).get("file")}
    for pattern in ("segments/*", "coarse-*.faiss", f".{MANIFEST}.*", ".coarse-*"):
        for entry in [*path.glob(pattern)]:
            if entry.name in named:
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
