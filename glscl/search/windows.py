"""Videos cut into windows, so that a search returns moments, not whole files.

A video that is at most little longer than a window is one window, sampled as in
training. From a longer one frames are taken at a fixed rate, and windows overlap on this
grid: CLIP encodes every frame once, however many windows share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from glscl.data.frames import resize_crop, sample_timeline
from glscl.data.loader import FrameSpec
from glscl.data.timeline import Timeline
from glscl.data.video import VideoError, VideoReader
from glscl.util.settings import Settings
from glscl.util.threads import streams

UNCUT = 1.5  # a video up to so many windows long is not cut
WINDOWS_AT_ONCE = 32  # windows of a long video that are decoded together
FRAMES_AT_ONCE = 16  # frames of full size held in memory


@dataclass(frozen=True)
class Windows(Settings):
    """Windows are ``seconds`` long, and share a part ``overlap`` with the next one."""

    seconds: Annotated[float, Field(gt=0)] = 10.0  #: length of a window, in seconds
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5  #: share common with the next

    @property
    def max_overlapping(self) -> int:
        """How many windows, itself included, at most overlap one window."""
        return 1 + 2 * int(np.ceil(1 / (1 - self.overlap)))


class Cut(NamedTuple):
    """A window: the frames ``indices`` (n,) to take, and its seconds in the video."""

    indices: NDArray[np.int64]
    start: float
    end: float


def cut(timeline: Timeline, spec: FrameSpec, windows: Windows) -> list[Cut]:
    """The windows of a video, in order of time."""
    duration, F = timeline.end, spec.max_frames
    rate = min(timeline.fps, spec.sample_fps, F / windows.seconds)  # of the grid
    n = max(1, min(F, round(windows.seconds * rate)))
    grid = np.arange(int(duration * rate)) / rate
    if duration <= UNCUT * windows.seconds or len(grid) <= n:
        whole = sample_timeline(timeline, F, spec.sample_fps, rule=spec.sampling)
        return [Cut(whole, 0.0, duration)]
    step = max(1, round(n * (1 - windows.overlap)))
    starts = sorted({*range(0, len(grid) - n + 1, step), len(grid) - n})
    indices = timeline.index_at(grid)
    ends = np.minimum(grid + windows.seconds, duration)
    return [Cut(np.unique(indices[k : k + n]), grid[k], ends[k]) for k in starts]


class DecodedChunk(NamedTuple):
    """W decoded windows of the file number ``file``; ``last``: there are no more of it.

    ``frames``: uint8 (T, S, S, 3). ``frame_slots``: (W, F), which of them a window has in
    each slot, -1 for padding. ``times``: (W, F) seconds, NaN for padding. ``spans``:
    (W, 2), start and end in seconds. ``error``: why the file cannot be read.
    """

    file: int
    last: bool
    frames: NDArray[np.uint8]
    frame_slots: NDArray[np.int64] = np.empty((0, 0), np.int64)
    times: NDArray[np.float32] = np.empty((0, 0), np.float32)
    spans: NDArray[np.float32] = np.empty((0, 2), np.float32)
    error: VideoError | None = None


def read_chunks(
    path: Path, file: int, spec: FrameSpec, windows: Windows
) -> Iterator[DecodedChunk]:
    """The windows of a video, in parts. For a broken file the last has an ``error``."""
    try:
        reader = VideoReader(path)
        cuts = cut(reader.timeline, spec, windows)
        for first in range(0, len(cuts), WINDOWS_AT_ONCE):
            part = cuts[first : first + WINDOWS_AT_ONCE]
            wanted = np.unique(np.concatenate([one.indices for one in part]))
            frames = read_resized(reader, wanted, resize_crop, spec.image_size)
            slots = np.full((len(part), spec.max_frames), -1, np.int64)
            for row, one in zip(slots, part, strict=True):
                row[: len(one.indices)] = np.searchsorted(wanted, one.indices)
            shown = reader.timeline.times[wanted]
            times = np.where(slots < 0, np.nan, shown[slots]).astype(np.float32)
            spans = np.array([(one.start, one.end) for one in part], np.float32)
            last = first + WINDOWS_AT_ONCE >= len(cuts)
            yield DecodedChunk(file, last, frames, slots, times, spans)
    except VideoError as error:
        nothing = np.empty((0, spec.image_size, spec.image_size, 3), np.uint8)
        yield DecodedChunk(file, True, nothing, error=error)


def read_resized(
    reader: VideoReader,
    indices: NDArray[np.int64],
    resize: Callable[[NDArray[np.uint8], int], NDArray[np.uint8]],
    side: int,
) -> NDArray[np.uint8]:
    """The frames at ``indices`` (n,), ascending, resized to ``side``: (n, h, w, 3).

    Only a few of full size are in memory at a time.
    """
    starts = range(0, len(indices), FRAMES_AT_ONCE)
    parts = (reader.read(indices[first : first + FRAMES_AT_ONCE]) for first in starts)
    return np.concatenate([resize(part, side) for part in parts])


def decoded_chunks(
    paths: Sequence[Path], spec: FrameSpec, windows: Windows, workers: int = 0
) -> Iterator[DecodedChunk]:
    """The windows of many videos, decoded one by one or by ``workers`` at a time.

    Decoders are processes of their own, so threads that wait for them are enough. The
    chunks of one file come in order; those of several files may alternate.
    """
    return streams(
        lambda file: read_chunks(paths[file], file, spec, windows),
        range(len(paths)),
        workers,
    )
