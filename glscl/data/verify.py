"""Every video of a data set, opened and decoded at the frames that a model uses.

A report gives the contents of each video, or its problem. Nothing is replaced: a video
that cannot be read has to be repaired, or left out by name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tqdm.auto import tqdm

from glscl.data.annotations import field, numbered, read_json
from glscl.data.frames import sample_video
from glscl.data.split import VideoItem
from glscl.data.video import VideoError, VideoReader
from glscl.util.files import write_json
from glscl.util.threads import streams


@dataclass(frozen=True)
class Checked:
    """The result for one video.

    ``status``: ok, unreadable, crash (of the decoder), timeout, or machine (see
    ``VideoError``). Videos that are ok have the numbers (frames that are shown, their
    mean number a second, pixels), the others a ``problem``.
    """

    id: str
    path: str
    status: str
    problem: str = ""
    frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    decoder: str | None = None


@dataclass(frozen=True)
class Report:
    """The videos in the order in which they were given, and the seconds it took."""

    videos: tuple[Checked, ...]
    seconds: float

    @property
    def bad(self) -> tuple[Checked, ...]:
        """The videos that cannot be read."""
        return tuple(video for video in self.videos if video.status != "ok")

    def summary(self) -> str:
        """One sentence."""
        return (
            f"{len(self.videos)} videos checked, {len(self.bad)} unreadable, "
            f"{len(self.videos) / self.seconds:.1f} videos/s."
        )

    def write(self, path: Path) -> None:
        """Everything as JSON."""
        write_json(path, asdict(self))


def read_unreadable(path: Path) -> list[str]:
    """Ids of the videos that the report at ``path`` found unreadable.

    Those that only the machine failed to read are none.
    """
    videos = field(read_json(path, dict), "videos", list, str(path))
    return [
        field(video, "id", str, where)
        for where, video in numbered(videos, f"{path}, video")
        if field(video, "status", str, where) not in ("ok", "machine")
    ]


def verify(
    items: Sequence[VideoItem], workers: int = 2, thorough: bool = False
) -> Report:
    """Open every video; decode its first and last sampled frame, ``workers`` at a time.

    ``thorough``: decode all frames, by a decoder that stops at damage which others
    conceal. A crash or a hang of the decoder is reported like any other problem.
    """
    started = time.perf_counter()
    calls = streams(partial(_check, thorough), items, workers)
    checked = tqdm(calls, total=len(items), desc="verifying", unit="video")
    found = {video.id: video for video in checked}
    videos = tuple(found[item.id] for item in items)
    return Report(videos, time.perf_counter() - started)


def _check(thorough: bool, item: VideoItem) -> Iterator[Checked]:
    which = item.id, str(item.path)
    try:
        reader = VideoReader(item.path)
        indices = sample_video(reader, start=item.start, end=item.end)
        _, height, width, _ = reader.read(indices[[0, -1]]).shape
        if thorough:
            reader.decode_all()
        frames, fps = len(reader.timeline.times), reader.timeline.fps
        yield Checked(*which, "ok", "", frames, fps, width, height, reader.decoder)
    except VideoError as error:
        status = "unreadable" if error.kind == "error" else error.kind
        yield Checked(*which, status, str(error))
