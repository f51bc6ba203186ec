"""Small video files of every kind: container, codec, rate, offset, edit list, rotation."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from glscl.data import decoders

SIZE = (48, 64)  # height, width
CLOCK = Fraction(1, 1000)


@dataclass(frozen=True)
class Kind:
    """How a file is made; ``rate``: constant, variable, unset (a clock of 1 ms)."""

    suffix: str
    codec: str
    b_frames: int = 0
    rate: str = "constant"
    offset: float = 0.0  # seconds at which the first frame stands
    hidden: int = 0  # frames before the cut that an edit list hides
    fps: int = 25
    turned: int = 0  # degrees, clockwise, by which a player turns the picture

    def __str__(self) -> str:
        parts = [self.suffix[1:], self.codec, f"b{self.b_frames}", self.rate]
        parts += [f"{self.fps}fps"] if self.fps != 25 else []
        parts += [f"at{self.offset:g}"] if self.offset else []
        parts += [f"cut{self.hidden}"] if self.hidden else []
        parts += [f"turned{self.turned}"] if self.turned else []
        return "-".join(parts)


def picture(number: int) -> np.ndarray:
    """A frame that says its number: a grey level, and a bar that moves."""
    pixels = np.full((*SIZE, 3), 20 + (37 * number) % 200, np.uint8)
    pixels[:, (5 * number) % 60 : (5 * number) % 60 + 4] = (255, 40, 40)
    return pixels


def seconds_of(kind: Kind, frames: int) -> np.ndarray:
    """The second at which each frame is meant to be shown, from 0."""
    numbers = np.arange(frames)
    if kind.rate != "variable":
        return numbers / kind.fps
    steps = np.where(numbers % 20 < 12, 1 / kind.fps, 4 / kind.fps)
    return np.concatenate([[0.0], np.cumsum(steps)[:-1]])


def write(path: Path, kind: Kind, frames: int = 120) -> Path:
    """The file of a kind with so many frames; a key frame every 30."""
    if kind.hidden:
        return _cut(path, kind, frames)
    with av.open(str(path), "w") as out:
        _fill(out, kind, frames)
    if kind.turned:
        _turn(path, kind.turned)
    return path


def _turn(path: Path, degrees: int) -> None:
    """Write the matrix of a rotation into the header of the track (QuickTime ``tkhd``)."""
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    values = [cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30]
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes
    data[start : start + 36] = struct.pack(">9i", *values)
    path.write_bytes(data)


def _fill(out: av.container.OutputContainer, kind: Kind, frames: int) -> None:
    options = {"g": "30", "bf": str(kind.b_frames)}
    options |= (
        {"preset": "ultrafast", "sc_threshold": "0"} if "264" in kind.codec else {}
    )
    rate = 1000 if kind.rate == "unset" else kind.fps
    stream = out.add_stream(kind.codec, rate=rate, options=options)
    stream.height, stream.width = SIZE
    stream.pix_fmt = "yuv420p"
    stream.bit_rate = 800_000
    timed = kind.rate != "constant" or kind.offset
    if timed:
        stream.codec_context.time_base = CLOCK
    for number, seconds in enumerate(seconds_of(kind, frames)):
        frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
        if timed:
            frame.pts, frame.time_base = round((seconds + kind.offset) * 1000), CLOCK
        out.mux(stream.encode(frame))
    out.mux(stream.encode())


def _cut(path: Path, kind: Kind, frames: int) -> Path:
    """What a cut without encoding leaves: packets before the cut, and an edit list."""
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as out:
        _fill(out, kind, frames + kind.hidden)
    memory.seek(0)
    with av.open(memory) as whole, av.open(str(path), "w") as clip:
        source = whole.streams.video[0]
        stream = clip.add_stream_from_template(source)
        shift = round(kind.hidden / kind.fps / source.time_base)
        for packet in whole.demux(source):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = stream
                clip.mux(packet)
    return path


def _turned(pixels: np.ndarray, degrees: int) -> np.ndarray:
    """A picture turned clockwise."""
    return np.rot90(pixels, -degrees // 90)


def shown(path: Path, turned: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """Every frame that a player shows and its second, by one decode from the start."""
    with av.open(str(path)) as container:
        start = (container.start_time or 0) / av.time_base
        stream = container.streams.video[0]
        found = [
            (frame.time - start, _turned(frame.to_ndarray(format="rgb24"), turned))
            for frame in container.decode(stream)
        ]
    times = np.array([seconds for seconds, _ in found])
    if path.suffix in (".avi", ".mpg"):
        # Frames come in the order in which they are shown, but these containers do not
        # stamp each of them, and what FFmpeg guesses jumps by a frame or two.
        times = np.arange(len(times)) / 25
    return times, [pixels for _, pixels in found]


KINDS = [
    *(
        Kind(s, "libx264", b)
        for s in (".mp4", ".mov", ".mkv", ".ts", ".avi", ".flv")
        for b in (0, 2)
    ),
    *(Kind(s, "mpeg4", b) for s in (".mp4", ".avi", ".mkv") for b in (0, 2)),
    *(Kind(s, "mpeg2video", b) for s in (".mpg", ".ts") for b in (0, 2)),
    *(Kind(s, c) for s in (".webm", ".mkv") for c in ("libvpx", "libvpx-vp9")),
    Kind(".wmv", "wmv2"),
    Kind(".mkv", "libx264", fps=30),  # a clock of 1 ms rounds its timestamps
    *(
        Kind(s, "libx264", b, "variable")
        for s in (".mp4", ".mkv", ".mov")
        for b in (0, 2)
    ),
    Kind(".webm", "libvpx", rate="variable"),
    *(Kind(s, "libx264", 0, "unset") for s in (".mkv", ".mp4")),
    *(
        Kind(s, "libx264", b, offset=1.5)
        for s in (".mp4", ".mkv", ".ts")
        for b in (0, 2)
    ),
    *(
        Kind(s, "libx264", b, hidden=h)
        for s in (".mp4", ".mov")
        for b in (0, 2)
        for h in (7, 45)
    ),
    *(
        Kind(s, "libx264", b, rate, turned=t)
        for s in (".mp4", ".mov")
        for b, rate in ((0, "constant"), (2, "variable"))
        for t in (90, 180, 270)
    ),
]


def as_large(path, monkeypatch):
    """A video opened in this process, as one that is too large for PyAV alone."""
    monkeypatch.setattr(decoders, "SMALL", 0)
    monkeypatch.setattr(decoders.Watch, "_end_after", lambda *_: None)
    return decoders.OpenVideo(str(path), decoders.Watch(io.BytesIO()))
