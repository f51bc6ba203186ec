"""A video file on the time axis that a player shows, read by the decoder that fits it.

Seconds are presentation timestamps of the container, counted from its start; what an
edit list hides is not there. A frame is shown from its own timestamp until the next.
decord reads constant-rate H.264 and the like in MP4, MOV, Matroska and WebM, where its
frames are provably the same and its seeking is fast; PyAV reads every other file, and
all files where decord has no wheel.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Containers and codecs whose packets carry their timestamps, as decord needs them.
DECORD_CONTAINERS = ("mov", "matroska")
DECORD_CODECS = ("h264", "hevc", "vp8", "vp9")
#: Where seeking to a key frame gives the same frames as decoding from the start.
SEEKABLE = ("mov", "matroska")
#: Where packets carry no time of their own: frames follow each other at one rate.
UNTIMED = ("avi",)
SLACK = 0.25  # seconds by which a decoder's timestamp may be off in a stream
GRACE = 1e-4  # seconds by which a time may be rounded, below the length of any frame
JUMP = 5.0  # seconds ahead from which a seek is tried instead of decoding on


class VideoError(RuntimeError):
    """A video file that cannot give the frames asked of it; the message names it."""


class Timeline(NamedTuple):
    """When each frame is shown.

    ``times``: (n,) seconds, ascending, of all frames that a player shows; ``end``: the
    second at which the last one ends; ``fps``: frames a second, the mean; ``constant``:
    whether all last equally long and the first is shown at once.
    """

    times: NDArray[np.float64]
    end: float
    fps: float
    constant: bool

    @classmethod
    def regular(cls, count: int, fps: float) -> Timeline:
        """``count`` frames at a constant ``fps``."""
        return cls(np.arange(count) / fps, count / fps, fps, True)

    def index_at(self, seconds: NDArray[np.floating]) -> NDArray[np.int64]:
        """The number (k,) of the frame that is shown at each of ``seconds`` (k,)."""
        # A small grace, since containers round timestamps to their clock.
        times = np.asarray(seconds, np.float64) + GRACE
        return (np.searchsorted(self.times, times, side="right") - 1).clip(min=0)


class VideoReader:
    """An open video: its time axis, and frames by number. Every method raises
    ``VideoError`` naming the file when it is missing, empty, no video, or broken at a
    frame that is asked for; a broken frame is never replaced by another.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise VideoError(f"Video {self.path} does not exist.")
        if self.path.stat().st_size == 0:
            raise VideoError(f"Video {self.path} is an empty file.")
        try:
            self.timeline, trusted = _timeline(self.path)
        except Exception as error:  # FFmpeg's own types, and ValueError of no stream
            raise VideoError(
                f"Video {self.path} cannot be opened: {_reason(error)}."
            ) from error
        if not len(self.timeline.times):
            raise VideoError(f"Video {self.path} cannot be opened: it has no frames.")
        decord = _decord() if trusted and self.timeline.constant else None
        self._source = _opened(self.path, self.timeline, decord)

    @property
    def decoder(self) -> str:
        """``"decord"`` or ``"PyAV"``."""
        return self._source.name

    def read(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The frames at ``indices`` (k,), ascending: RGB, uint8 (k, H, W, 3)."""
        unique, places = np.unique(indices, return_inverse=True)
        try:
            frames = self._read(unique)
        except Exception as error:
            raise VideoError(
                f"Video {self.path} cannot be decoded at frames {unique[0]} to "
                f"{unique[-1]} of {len(self.timeline.times)}: {_reason(error)}."
            ) from error
        return frames if len(unique) == len(indices) else frames[places]

    def _read(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        """By the chosen decoder; what decord cannot read, PyAV reads or says why not.

        decord gives up on whole files too, on a busy machine.
        """
        if isinstance(self._source, _Decord):
            try:
                return self._source.read(indices)
            except Exception:
                self._source = _PyAV(self.path, self.timeline)
        return self._source.read(indices)


def _timeline(path: Path) -> tuple[Timeline, bool]:
    """The time axis of a file, and whether decord may read it if it is constant."""
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        stream = container.streams.video[0]
        container_name = container.format.name.split(",")[0]
        codec = stream.codec_context.codec.canonical_name
        trusted = container_name in DECORD_CONTAINERS and codec in DECORD_CODECS
        if trusted and container_name == "mov":
            constant = _constant_index(container, stream)
            if constant is not None:
                return constant, True
        start = (container.start_time or 0) / av.time_base
        # A file without a length, as recorders pipe it, and one of which an edit list
        # hides a part, are none that decord understands.
        trusted &= container.duration is not None
        stamps, last = [], None
        for packet in container.demux(stream):
            if packet.is_discard:
                trusted = False
            elif packet.size:
                stamps.append(packet.pts)
                last = packet.duration or last
        unit = float(stream.time_base or 0)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
    if None in stamps or container_name in UNTIMED:
        return Timeline.regular(len(stamps), rate), False
    times = np.sort(np.array(stamps, dtype=np.float64)) * unit - start
    if container_name == "mpeg":
        # Its stamps are those of packets, not frames, and wrong by a frame or two.
        smooth = np.linspace(times[0], times[-1], len(times))
        times = smooth if np.abs(times - smooth).max() < SLACK else times
    return _measured(times, unit, (last or 0) * unit, rate), trusted


def _constant_index(container: Any, stream: Any) -> Timeline | None:
    """The time axis of an MP4 whose own index says that its rate is constant."""
    entries = stream.index_entries
    n = len(entries)
    if n < 2 or n != stream.frames or container.start_time or stream.start_time:
        return None
    clock = np.array([entry.timestamp for entry in entries])
    steps = np.diff(clock)
    if (steps != steps[0]).any() or steps[0] <= 0:
        return None
    if any(entry.is_discard for entry in entries):
        return None
    step = int(steps[0]) * stream.time_base
    # An edit list that cuts shows in a duration that is not that of all frames.
    duration = stream.duration
    if duration is None or abs(duration * stream.time_base - n * step) > step:
        return None
    return Timeline.regular(n, float(1 / step))


def _measured(
    times: NDArray[np.float64], unit: float, last: float, rate: float
) -> Timeline:
    """A timeline from timestamps; rounding to a clock of ``unit`` is no change of rate.

    ``rate``: what the file states, taken where it agrees with the timestamps; ``last``:
    seconds that the last frame is shown, 0 if not stated.
    """
    n = len(times)
    if n < 2:
        end = float(times[-1]) + (last or 1 / rate) if n else 0.0
        return Timeline(times, end, n / max(end, GRACE), False)
    if abs(times[0]) < 1e-3 and _agrees(times, unit, rate):
        return Timeline.regular(n, rate)
    fps = (n - 1) / float(times[-1] - times[0])
    if abs(times[0]) < 1e-3 and _agrees(times, unit, fps):
        return Timeline.regular(n, fps)
    end = float(times[-1]) + (last or 1 / fps)
    return Timeline(times, end, n / end, False)


def _agrees(times: NDArray[np.float64], unit: float, fps: float) -> bool:
    """Whether ``times`` are those of a constant rate, rounded to a clock of ``unit``."""
    even = times[0] + np.arange(len(times)) / fps
    return bool(np.abs(times - even).max() <= 1.01 * unit)


def _opened(path: Path, timeline: Timeline, decord: Any) -> _Decord | _PyAV:
    """decord's reader where it counts the frames that a player shows, else PyAV's."""
    if decord is not None:
        try:
            reader = decord.VideoReader(
                str(path), ctx=decord.cpu(0), num_threads=1, fault_tol=1
            )
        except Exception:  # its own types; PyAV says what is wrong, if anything is
            return _PyAV(path, timeline)
        if len(reader) == len(timeline.times):
            return _Decord(reader)
    return _PyAV(path, timeline)


class _Decord:
    """Frames by number, by decord."""

    name = "decord"

    def __init__(self, reader: Any):
        self.reader = reader

    def read(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        return self.reader.get_batch(indices.tolist()).asnumpy()


class _PyAV:
    """Frames by number, by PyAV: decoded on from where it stands, or from a key frame."""

    name = "PyAV"

    def __init__(self, path: Path, timeline: Timeline):
        self.path, self.times = path, timeline.times
        self.middles = (self.times[1:] + self.times[:-1]) / 2
        self._open()

    def _open(self) -> None:
        import av

        self.container = av.open(str(self.path))
        self.stream = self.container.streams.video[0]
        self.stream.thread_type = "AUTO"
        kind = self.container.format.name.split(",")[0]
        self.seekable, self.untimed = kind in SEEKABLE, kind in UNTIMED
        self.start = (self.container.start_time or 0) / av.time_base
        self.frames = self.container.decode(self.stream)
        self.at = -1  # number of the frame that was decoded last

    def read(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        out = []
        for index in indices.tolist():
            frame = self._frame(index)
            out.append(_upright(frame))
        return np.stack(out)

    def _frame(self, index: int, back: float = 0.0) -> Any:
        ahead = self.times[index] - (self.times[self.at] if self.at >= 0 else 0.0)
        if back or index <= self.at or (self.seekable and ahead > JUMP):
            self._go_before(float(self.times[index]) - back)
        shown = frame = None
        for frame in self.frames:
            if frame.is_corrupt:
                raise ValueError("the decoder marks a frame as corrupt")
            self.at = self._number(frame)
            if self.at == index:
                return frame
            if self.at > index:
                break
            shown = frame
        # A seek goes by decoding times: where frames are reordered it may pass this one.
        if self.seekable and shown is None and back < self.times[index]:
            return self._frame(index, 8 * back + 1)
        # A stream that was cut out of another may start with frames nothing can decode.
        if self.seekable or frame is None or (shown is None and index > 0):
            raise ValueError(f"frame {index} is missing")
        return frame if shown is None else shown

    def _number(self, frame: Any) -> int:
        """Which frame of the time axis has been decoded.

        Timestamps decide where a file can be entered at a key frame. Elsewhere frames
        come one after the other, and timestamps, some of which decoders guess, only say
        where the first one stands and where there is a gap.
        """
        following = self.at + 1
        if frame.time is None or self.untimed:
            return following
        seconds = frame.time - self.start
        inside = not self.seekable and 0 < following < len(self.times)
        if inside and abs(seconds - self.times[following]) <= SLACK:
            return following
        # The nearest: the times of a constant rate are exact, timestamps are rounded.
        return int(np.searchsorted(self.middles, seconds))

    def _go_before(self, second: float) -> None:
        """To the key frame before a second of the time axis, or to the start."""
        if not self.seekable:
            self.container.close()
            self._open()
            return
        unit = float(self.stream.time_base or 1)
        offset = int((max(second, 0.0) + self.start) / unit)
        self.container.seek(offset, stream=self.stream, backward=True, any_frame=False)
        self.frames = self.container.decode(self.stream)
        self.at = -1


def _upright(frame: Any) -> NDArray[np.uint8]:
    """A frame as RGB, turned as the file says."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


@lru_cache(maxsize=1)
def _decord() -> Any:
    """decord, or None where it cannot be imported."""
    # decord retries 10240 times at a broken end of file, which takes minutes.
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "2048")
    try:
        import decord
    except ImportError:
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _reason(error: Exception) -> str:
    """The first informative line of a decoder's message, without its file names."""
    if "Check failed" in str(error):  # how decord's own code is written, not the file
        return "the file is damaged"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return re.sub(r"^\[Errno \d+\] ", "", text).rstrip(".")[:160]
