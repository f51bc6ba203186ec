"""When each frame of a video is shown: the time axis of a file, as a player has it.

Seconds are presentation timestamps of the container, counted from its start; what an
edit list hides is not there. A frame is shown from its own timestamp until the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Containers and codecs whose packets carry their timestamps, as decord needs them.
DECORD_CONTAINERS = ("mov", "matroska")
DECORD_CODECS = ("h264", "hevc", "vp8", "vp9")
#: Where packets carry no time of their own: frames follow each other at one rate.
UNTIMED = ("avi",)
#: Streams that are cut and joined as they are, so that their clock may begin anew.
JOINED = ("mpegts", "mpeg")
WRAP = 2**32  # ticks, half the range of their clock: a jump over more is one back
SLACK = 0.25  # seconds by which a decoder's timestamp may be off in a stream
GRACE = 1e-4  # seconds by which a time may be rounded, below the length of any frame


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


class Axis(NamedTuple):
    """The time axis of a file and what its decoder needs to know.

    ``stamps``: (n,) timestamps of the frames, seconds; empty where some have none, so
    that frames can only be counted. ``trusted``: whether decord may read the file if
    its rate is constant. ``frame_bytes``: of a frame.
    """

    timeline: Timeline
    stamps: NDArray[np.float64]
    trusted: bool
    frame_bytes: int


def read_axis(path: str, watch: Callable[[], None]) -> Axis:
    """The time axis of a file. ``watch`` is called for every packet.

    Raises what PyAV does, and ``ValueError`` without a video that it can decode.
    """
    import av

    with av.open(path) as container:
        stream = video_stream(container)
        frame_bytes = max(1, 3 * stream.width * stream.height)
        container_name = container.format.name.split(",")[0]
        codec = stream.codec_context.codec.canonical_name
        trusted = container_name in DECORD_CONTAINERS and codec in DECORD_CODECS
        trusted &= len(container.streams.video) == 1  # decord takes another of several
        if trusted and container_name == "mov":
            constant = _constant_index(container, stream)
            if constant is not None:
                return Axis(constant, constant.times, True, frame_bytes)
        start = (container.start_time or 0) / av.time_base
        # A file without a length, as recorders pipe it, and one of which an edit list
        # hides a part, are none that decord understands.
        trusted &= container.duration is not None
        stamps, coded, last = [], [], 0
        for packet in container.demux(stream):
            watch()
            if packet.is_discard:
                trusted = False
            elif packet.size:
                stamps.append(packet.pts)
                coded.append(packet.dts)
                last = packet.duration or last
        unit = float(stream.time_base or 0)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
    if None in stamps or container_name in UNTIMED:
        regular = Timeline.regular(len(stamps), rate)
        return Axis(regular, np.empty(0), False, frame_bytes)
    raw = np.array(stamps, dtype=np.float64) * unit - start
    if container_name not in JOINED:
        # Frames with the same timestamp are one: no time is left for the others.
        timeline = _measured(np.unique(raw), unit, last * unit, rate)
        return Axis(timeline, timeline.times, trusted, frame_bytes)
    decoded = np.array(coded, np.float64) * unit
    shown = _on_one_clock(raw, decoded, WRAP * unit, 1 / rate)
    order = np.argsort(shown, kind="stable")
    times = shown[order]
    if container_name == "mpeg":
        # Its stamps are those of packets, not frames, and wrong by a frame or two.
        smooth = np.linspace(times[0], times[-1], len(times))
        times = smooth if np.abs(times - smooth).max() < SLACK else times
    timeline = _measured(times, unit, last * unit, rate)
    return Axis(timeline, raw[order], False, frame_bytes)


def video_stream(container: Any) -> Any:
    """The first video of a file; the picture of a cover is none.

    Raises ``ValueError`` where there is none, or no decoder for it.
    """
    import av

    cover = av.stream.Disposition.attached_pic
    found = [one for one in container.streams.video if not one.disposition & cover]
    if not found:
        raise ValueError("it has no video stream")
    if found[0].codec_context is None:
        raise ValueError("there is no decoder for its video")
    return found[0]


def _on_one_clock(
    stamps: NDArray[np.float64], coded: NDArray[np.float64], wrap: float, step: float
) -> NDArray[np.float64]:
    """``stamps`` (n,) of packets, but where their clock begins anew they go on.

    ``coded``: (n,) decoding times, which go back only there; a jump over more than
    ``wrap`` seconds is one back that FFmpeg takes for an overflow. All are seconds.
    """
    steps = np.diff(coded)
    first, *others = np.split(
        stamps, np.flatnonzero((steps < -SLACK) | (steps > wrap)) + 1
    )
    if not others:
        return stamps
    shown = [first - first.min()]
    for part in others:
        shown.append(part - part.min() + shown[-1].max() + step)
    return np.concatenate(shown)


def _constant_index(container: Any, stream: Any) -> Timeline | None:
    """The time axis of an MP4 whose own index says that its rate is constant."""
    entries = getattr(stream, "index_entries", ())  # of PyAV 17 and later
    n = len(entries)
    if n < 2 or n != stream.frames or container.start_time or stream.start_time:
        return None
    clock = np.array([entry.timestamp for entry in entries])
    steps, hidden = np.diff(clock), any(entry.is_discard for entry in entries)
    if (steps != steps[0]).any() or steps[0] <= 0 or hidden:
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
    fps = (n - 1) / float(times[-1] - times[0])
    for even in (rate, fps) if abs(times[0]) < 1e-3 else ():
        off = np.abs(times - (times[0] + np.arange(n) / even))
        if off.max() <= 1.01 * unit:
            return Timeline.regular(n, even)
    end = float(times[-1]) + (last or 1 / fps)
    return Timeline(times, end, n / end, False)
