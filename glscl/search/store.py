"""An index on disk: segments that never change, and one small file that names them.

    index.json               what counts; replaced by one rename
    segments/NAME/           written once, under another name, then renamed
        rows.npy             (N,) ROW: one record a window
        times.npy            (N, F) float32: seconds at which its frames are, NaN: none
        features.npy         (N, F + Q, D) float16: its frames, then its concepts
        coarse.npy           (N, D) float16: unit mean of its frames
        files.npy, paths.npy (M,) FILE, and the UTF-8 paths one after the other
    coarse-NAME.faiss        the approximate index of a large collection

A window has a number, its *id*, that is never given again; ids grow from row to row and
from segment to segment. What is no longer valid is listed in ``index.json`` as ranges
of ids and leaves the disk when segments are merged. A reader that has opened an index
keeps its files, also after they are deleted, so it reads one state to the end.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glscl.util.files import write_json

FORMAT = "glscl video index 1"
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
MERGE = 16  # so many segments of a size become one of the next
COPY_ROWS = 4096  # windows held in memory while segments are copied or read through


class FileState(NamedTuple):
    """What changes when a file does: bytes, and nanoseconds of the last change."""

    size: int
    mtime_ns: int


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
    approximate: dict[str, Any] | None = None  # its file, and the ids below which it is
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
    with (path / ".lock").open("w") as lock:
        try:
            import fcntl
        except ImportError:  # Windows: no lock that ends with its process
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(
                f"Another process is writing the index {path}."
            ) from error
        yield


# ---- segments ----------------------------------------------------------------------


class SegmentWriter:
    """A segment of ``N`` windows that becomes visible when the block ends well."""

    def __init__(self, path: Path, name: str, N: int, manifest: Manifest):
        F, Q, D = manifest.F, manifest.Q, manifest.D
        self.final = path / "segments" / name
        self.partial = path / "segments" / f".{name}"
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        self.rows = self._array("rows", ROW, (N,))
        self.times = self._array("times", np.float32, (N, F))
        self.features = self._array("features", np.float16, (N, F + Q, D))
        self.coarse = self._array("coarse", np.float16, (N, D))
        self.filled = 0
        self.files: list[NDArray] = []
        self.paths: list[bytes] = []
        self.path_end = 0

    def _array(self, name: str, dtype: Any, shape: tuple[int, ...]) -> NDArray:
        return np.lib.format.open_memmap(
            self.partial / f"{name}.npy", mode="w+", dtype=dtype, shape=shape
        )

    def add_files(self, paths: Sequence[str], states: Sequence[FileState]) -> None:
        """Name the files that windows refer to by number, from 0 in order."""
        encoded = [os.fsencode(path) for path in paths]
        ends = self.path_end + np.cumsum([len(path) for path in encoded])
        table = np.empty(len(encoded), FILE)
        table["path_end"] = ends
        table["size"] = [state.size for state in states]
        table["mtime_ns"] = [state.mtime_ns for state in states]
        self.files.append(table)
        self.paths += encoded
        self.path_end = int(ends[-1])

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
            array.flush()  # type: ignore[attr-defined]
        np.save(self.partial / "files.npy", np.concatenate(self.files))
        blob = np.frombuffer(b"".join(self.paths), np.uint8)
        np.save(self.partial / "paths.npy", blob)
        os.rename(self.partial, self.final)


class Records:
    """Rows of a .npy file, read from where they lie and nothing around them.

    A memory map would fetch its neighbours with every row: on a cold cache a hundred
    times what is wanted.
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

    def forget(self) -> None:
        """Ask the system to drop what it holds of the file in memory."""
        self._advise(0, 0, "POSIX_FADV_DONTNEED")

    def read(self, rows: NDArray[np.int64]) -> NDArray:
        """The rows (n,), best in ascending order: (n, ...)."""
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        starts = (self.offset + rows * self.row_bytes).tolist()
        for start in starts:  # all are requested before the first is read
            self._advise(start, self.row_bytes, "POSIX_FADV_WILLNEED")
        for start, row in zip(starts, out, strict=True):
            self._fill(start, row)
        return out

    def span(self, first: int, last: int) -> NDArray:
        """The rows from ``first`` up to, but without, ``last``."""
        out = np.empty((last - first, *self.shape[1:]), self.dtype)
        self._fill(self.offset + first * self.row_bytes, out)
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

    def path(self, file: int) -> str:
        start = int(self.files["path_end"][file - 1]) if file else 0
        end = int(self.files["path_end"][file])
        return os.fsdecode(self.blob[start:end].tobytes())

    @cached_property
    def paths(self) -> list[str]:
        blob, ends = self.blob.tobytes(), self.files["path_end"].tolist()
        starts = [0, *ends[:-1]]
        return [
            os.fsdecode(blob[first:last])
            for first, last in zip(starts, ends, strict=True)
        ]


class Snapshot:
    """One state of an index, for reading. A *row* counts windows through all segments.

    ``ids``, ``live``: (N,), the id of every row and whether it is still valid.
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

    def columns(self, name: str, rows: NDArray[np.int64]) -> NDArray:
        """A field of ROW of ``rows`` (n,)."""
        return self._gather(rows, ROW[name], (), lambda s, r: s.rows[name][r])

    def times(self, rows: NDArray[np.int64]) -> NDArray:
        """Seconds at which the frames of ``rows`` are, (n, F); NaN: no frame."""
        F = self.manifest.F
        return self._gather(rows, np.float32, (F,), lambda s, r: s.times.read(r))

    def features(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """Frames and concepts of ``rows`` (n,), best ascending: (n, F + Q, D)."""
        shape = self.manifest.F + self.manifest.Q, self.manifest.D
        return self._gather(rows, np.float16, shape, lambda s, r: s.features.read(r))

    def coarse(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """Unit means of the frames of ``rows``: (n, D)."""
        D = self.manifest.D
        return self._gather(rows, np.float16, (D,), lambda s, r: s.coarse[r])

    def _gather(
        self, rows: NDArray[np.int64], dtype: Any, shape: tuple[int, ...], read: Any
    ) -> NDArray:
        holders = np.searchsorted(self.first, rows, side="right") - 1
        if len(rows) and (holders == holders[0]).all():
            return read(self.segments[holders[0]], rows - self.first[holders[0]])
        out = np.empty((len(rows), *shape), dtype)
        for number in np.unique(holders):
            here = holders == number
            out[here] = read(self.segments[number], rows[here] - self.first[number])
        return out

    def spans(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
        """All live windows in order, in parts: rows (n,) and their features."""
        for segment, first in zip(self.segments, self.first, strict=False):
            for start in range(0, len(segment.rows), COPY_ROWS):
                stop = min(start + COPY_ROWS, len(segment.rows))
                live = self.live[first + start : first + stop]
                if live.any():
                    rows = first + start + live.nonzero()[0]
                    yield rows, segment.features.span(start, stop)[live]

    def path_of(self, row: int) -> str:
        """The path, relative to the folder, of the file that holds a window."""
        number = int(np.searchsorted(self.first, row, side="right")) - 1
        segment = self.segments[number]
        return segment.path(int(segment.rows["file"][row - self.first[number]]))

    def live_files(self) -> dict[str, tuple[FileState, tuple[int, int]]]:
        """Every file that has windows: its state, and the range of their ids."""
        found = {}
        for segment, first in zip(self.segments, self.first, strict=False):
            rows = segment.rows[self.live[first : first + len(segment.rows)]]
            numbers, starts, counts = np.unique(
                rows["file"], return_index=True, return_counts=True
            )
            for number, start, count in zip(numbers, starts, counts, strict=True):
                _, size, mtime_ns = segment.files[number].tolist()
                ids = int(rows["id"][start]), int(rows["id"][start + count - 1]) + 1
                found[segment.paths[number]] = FileState(size, mtime_ns), ids
        return found


# ---- keeping house -----------------------------------------------------------------


def segment_name(manifest: Manifest) -> str:
    """The name of the next segment; like an id it is never given again."""
    return f"{manifest.next_segment:06d}"


def count_to_merge(rows: Sequence[int]) -> int:
    """How many of the last segments, of so many windows each, should become one.

    Sizes are compared by their order of magnitude in base MERGE: MERGE segments of one
    order become one of the next, with the smaller ones after them. So every window is
    copied once an order, and there are few segments.
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

    Nothing counts before the caller writes the manifest.
    """
    manifest = snapshot.manifest
    kept, old = manifest.segments[:-count], snapshot.segments[-count:]
    first = snapshot.first[-count - 1 : -1]
    lives = [
        snapshot.live[start : start + len(segment.rows)]
        for segment, start in zip(old, first, strict=True)
    ]
    total = int(sum(live.sum() for live in lives))
    name = segment_name(manifest)
    if total:
        with SegmentWriter(path, name, total, manifest) as writer:
            files = 0
            for segment, live in zip(old, lives, strict=True):
                files += _copy_live(segment, live, writer, files)
    lowest = int(snapshot.ids[first[0]])
    return replace(
        manifest,
        segments=(*kept, name) if total else kept,
        next_segment=manifest.next_segment + 1,
        dropped=tuple(
            (low, min(high, lowest)) for low, high in manifest.dropped if low < lowest
        ),
    )


def _copy_live(
    segment: Segment, live: NDArray[np.bool_], writer: SegmentWriter, first_file: int
) -> int:
    """Append the live windows of a segment, and their files; how many files."""
    rows = segment.rows[live]
    if not len(rows):
        return 0
    numbers, renamed = np.unique(rows["file"], return_inverse=True)
    rows["file"] = first_file + renamed
    writer.add_files(
        [segment.paths[number] for number in numbers],
        [FileState(*segment.files[number].tolist()[1:]) for number in numbers],
    )
    places = live.nonzero()[0]
    for start in range(0, len(places), COPY_ROWS):
        part = places[start : start + COPY_ROWS]
        span = slice(int(part[0]), int(part[-1]) + 1)
        inside = part - span.start
        writer.add(
            rows[start : start + COPY_ROWS],
            segment.times.span(span.start, span.stop)[inside],
            segment.features.span(span.start, span.stop)[inside],
            segment.coarse[span][inside],
        )
    return len(numbers)


def clean(path: Path, manifest: Manifest) -> None:
    """Delete what ``manifest`` does not name: left by a killed writer, or merged."""
    kept = set(manifest.segments)
    with suppress(FileNotFoundError):
        for folder in (path / "segments").iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
    for pattern in ("coarse-*.faiss", f".{MANIFEST}.*", ".coarse-*"):
        for file in path.glob(pattern):
            if (
                manifest.approximate is None
                or file.name != manifest.approximate["file"]
            ):
                file.unlink(missing_ok=True)
