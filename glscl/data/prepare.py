"""Smaller copies of videos, made once, so that training reads fewer bytes.

Models take about one frame a second, of 224 pixels. A copy at 3 frames a second with
that shorter side decodes many times faster and, at a whole frame rate, holds exactly
the frames that would be sampled at 1 frame a second. Sound is dropped; rotation is
applied.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from glscl.data.annotations import read_json
from glscl.data.encode import write_mp4
from glscl.data.frames import resampled, resize_shorter
from glscl.data.split import VideoItem
from glscl.data.video import VideoError
from glscl.util.files import atomic_path, write_json
from glscl.util.threads import streams

SETTINGS = "prepared.json"


@dataclass(frozen=True)
class Prepared:
    """What was done: files written and kept, bytes of both sides, seconds.

    ``problems``: why a video has no copy, by id.
    """

    written: int
    kept: int
    bytes_before: int
    bytes_after: int
    seconds: float
    problems: Mapping[str, str]

    def summary(self) -> str:
        """One sentence."""
        rate = self.written / self.seconds
        share = self.bytes_after / self.bytes_before if self.bytes_before else 0.0
        return (
            f"{self.written} videos written ({rate:.1f} a second), {self.kept} kept, "
            f"{len(self.problems)} unreadable; {self.bytes_before / 1e6:.1f} MB became "
            f"{self.bytes_after / 1e6:.1f} MB ({share:.0%})."
        )


def prepare(
    items: Sequence[VideoItem],
    folder: str | Path,
    fps: float = 3.0,
    size: int = 224,
    workers: int = 2,
) -> Prepared:
    """Write ``folder``/<id>.mp4 for each video: ``fps`` frames a second, shorter side
    at most ``size``; what is there already and newer than its source stays.

    Raises ``ValueError`` for a folder that was prepared with other settings.
    """
    folder, settings = Path(folder), {"fps": fps, "size": size}
    noted = folder / SETTINGS
    if not noted.exists():
        write_json(noted, settings)
    elif (found := read_json(noted, dict)) != settings:
        raise ValueError(
            f"{folder} holds videos prepared with {found}, not {settings}: choose "
            "another folder."
        )
    started = time.perf_counter()
    todo = [item for item in items if not _is_done(item, folder)]
    copied = streams(partial(_copy, folder, fps, size), todo, workers)
    said = tqdm(copied, total=len(todo), desc="preparing", unit="video")
    problems = {name: problem for name, problem in said if problem}
    readable = [item for item in items if item.id not in problems]
    return Prepared(
        written=len(todo) - len(problems),
        kept=len(items) - len(todo),
        bytes_before=sum(item.path.stat().st_size for item in readable),
        bytes_after=sum(_target(item, folder).stat().st_size for item in readable),
        seconds=time.perf_counter() - started,
        problems=problems,
    )


def _target(item: VideoItem, folder: Path) -> Path:
    return folder / f"{item.id}.mp4"


def _is_done(item: VideoItem, folder: Path) -> bool:
    """Copies appear whole or not at all, so a newer file is a finished one."""
    files = _target(item, folder), item.path
    copied, changed = (f.stat().st_mtime_ns if f.exists() else 0 for f in files)
    return copied >= changed > 0


def _copy(
    folder: Path, fps: float, size: int, item: VideoItem
) -> Iterator[tuple[str, str]]:
    """Copy a video; its id, and why it cannot be read or an empty text."""

    def frames() -> Iterator[np.ndarray]:
        for chunk in resampled(item.path, fps):
            # Smaller videos are not enlarged.
            small = resize_shorter(chunk, min(size, *chunk.shape[1:3]))
            # H.264 stores colours at half the resolution and so needs even sizes.
            height, width = (side // 2 * 2 for side in small.shape[1:3])
            yield from np.ascontiguousarray(small[:, :height, :width])

    # A key frame every 4 s, so that a reader need not start at the first.
    options = {"crf": "20", "preset": "fast", "g": str(round(4 * fps))}
    rate = Fraction(fps).limit_denominator(1000)
    try:
        with atomic_path(_target(item, folder)) as temporary:
            # Absolute, since FFmpeg takes a colon in a relative name for a protocol.
            write_mp4(str(temporary.absolute()), frames(), rate, options)
        yield item.id, ""
    except VideoError as error:
        yield item.id, str(error)
