"""The decoders of videos, in a process of their own that may hang or crash.

decord reads constant-rate H.264 and the like in MP4, MOV, Matroska and WebM, where its
frames are provably the same and its seeking is fast; PyAV reads every other file, small
ones, for which it takes less time, and all files where decord has no wheel.
``video.VideoReader`` starts the process and asks.
"""

from __future__ import annotations

import errno
import faulthandler
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property, lru_cache
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from glscl.data.timeline import SLACK, Axis, Timeline, read_axis, video_stream

#: Where seeking to a key frame gives the same frames as decoding from the start.
SEEKABLE = ("mov", "matroska")
JUMP = 5.0  # seconds ahead from which a seek is tried instead of decoding on
PART_BYTES = 1 << 25  # of frames that are sent together
#: Bytes of all frames of a small file: to start threads takes longer than to decode it.
SMALL = 1 << 24
SLOWEST = 50.0  # frames a second that any machine decodes
#: Errors of the system that are none of the file.
MACHINE = {errno.EACCES, errno.EPERM, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
MACHINE |= {errno.ENOSPC, errno.EIO}


class Watch:
    """Ends this process where nothing is decoded for ``limit`` seconds.

    It must be called whenever something was. Native code that never returns does not
    hinder it.
    """

    def __init__(self, log: BinaryIO):
        self.log, self.limit, self.last = log, 0.0, 0.0

    def __call__(self, more: float = 0.0) -> None:
        """Begin to wait anew, ``more`` seconds longer than usual."""
        now = time.monotonic()
        if more or now - self.last > self.limit / 20:
            self.last = now
            self._end_after(self.limit + more)

    def stop(self) -> None:
        """Wait for nothing."""
        self._end_after(0.0)
        self.last = 0.0

    def _end_after(self, seconds: float) -> None:
        if hasattr(signal, "setitimer"):  # its signal ends a process
            signal.setitimer(signal.ITIMER_REAL, seconds)
        elif seconds:  # starts a thread, which takes longer
            faulthandler.dump_traceback_later(seconds, exit=True, file=self.log)
        else:
            faulthandler.cancel_dump_traceback_later()


class OpenVideo:
    """A video, open in this process. Errors are those of the decoders."""

    def __init__(self, path: str, watch: Watch):
        self.path, self.watch = path, watch
        self.axis = read_axis(path, watch)
        self.timeline = self.axis.timeline
        if not len(self.timeline.times):
            raise ValueError("it has no frames")

    @cached_property
    def source(self) -> _Decord | _PyAV:
        """What decodes: decord where it counts the frames that a player shows."""
        able = self.axis.trusted and self.timeline.constant and not _small(self.axis)
        decord = _decord() if able else None
        if decord is not None:
            try:
                reader = decord.VideoReader(
                    self.path, ctx=decord.cpu(0), num_threads=1, fault_tol=1
                )
            except Exception:  # its own types; PyAV says what is wrong, if anything is
                return _PyAV(self.path, self.axis, self.watch)
            if len(reader) == len(self.timeline.times):
                return _Decord(reader, self.watch)
        return _PyAV(self.path, self.axis, self.watch)

    def read(self, indices: NDArray[np.integer]) -> Iterator[NDArray[np.uint8]]:
        """The frames at ``indices``, ascending, in parts: RGB, uint8 (k, H, W, 3).

        Where decord cannot read a part, or prints that it conceals an error, PyAV reads
        or says why not. decord gives up on whole files too, on a busy machine.
        """
        done, size = 0, max(1, PART_BYTES // self.axis.frame_bytes)
        while done < len(indices):
            part = indices[done : done + size]
            if isinstance(self.source, _Decord):
                try:
                    frames = self.source.read(part)
                except Exception:
                    frames = None
                if frames is None or self.watch.log.seek(0, os.SEEK_END):
                    self.source = _PyAV(self.path, self.axis, self.watch)
                    continue
            else:
                frames = self.source.read(part)
            yield frames
            done += len(part)

    def decode_all(self) -> int:
        """Decode the whole video, and stop at damage that decoders usually conceal."""
        import av

        good = 0
        try:
            with av.open(self.path) as container:
                stream = video_stream(container)
                stream.thread_type = _threads(stream, self.axis)
                stream.codec_context.options = {"err_detect": "explode"}
                for frame in container.decode(stream):
                    if frame.is_corrupt:
                        raise ValueError("the decoder marks it as corrupt")
                    good += 1
                    self.watch()
        except (av.FFmpegError, ValueError) as error:
            raise ValueError(f"damaged after {good} frames: {reason(error)}") from error
        return good


class _Decord:
    """Frames by number, by decord."""

    name = "decord"

    def __init__(self, reader: Any, watch: Watch):
        self.reader, self.watch = reader, watch

    def read(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        self.watch(len(self.reader) / SLOWEST)  # at worst all frames have to be decoded
        return self.reader.get_batch(indices.tolist()).asnumpy()


class _PyAV:
    """Frames by number, by PyAV: decoded on from where it stands, or from a key frame."""

    name = "PyAV"

    def __init__(self, path: str, axis: Axis, watch: Watch):
        self.path, self.axis, self.watch = path, axis, watch
        self.times, self.stamps = axis.timeline.times, axis.stamps
        self.middles = (self.times[1:] + self.times[:-1]) / 2
        self._open()

    def _open(self) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        # One for all frames, since it takes long to set up; so do the threads that it
        # has from PyAV 17 on.
        self.converter: Any = VideoReformatter()
        self.alone = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
        self.container = av.open(self.path)
        self.stream = video_stream(self.container)
        self.size = self.stream.width, self.stream.height  # may change in between
        self.stream.thread_type = _threads(self.stream, self.axis)
        kind = self.container.format.name.split(",")[0]
        self.seekable = kind in SEEKABLE and len(self.stamps) > 0
        self.start = (self.container.start_time or 0) / av.time_base
        self.frames = self.container.decode(self.stream)
        self.at = -1  # number of the frame that was decoded last
        self.damaged = False  # whether it, or one that it builds on, is

    def read(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        return np.stack([self._upright(self._frame(i)) for i in indices.tolist()])

    def _frame(self, index: int, back: float = 0.0) -> Any:
        ahead = self.times[index] - (self.times[self.at] if self.at >= 0 else 0.0)
        if back or index <= self.at or (self.seekable and ahead > JUMP):
            self._go_before(float(self.times[index]) - back)
        shown = frame = None
        for frame in self.frames:
            self.watch()
            self.damaged = frame.is_corrupt or (self.damaged and not frame.key_frame)
            self.at = self._number(frame)
            if self.damaged and self.at >= index:
                raise ValueError("the decoder marks a frame as corrupt")
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
        if frame.time is None or following >= len(self.stamps):
            return following
        seconds = frame.time - self.start
        if self.seekable:
            # The nearest: the times of a constant rate are exact, timestamps rounded.
            return int(np.searchsorted(self.middles, seconds))
        ahead = np.abs(self.stamps[following:] - seconds)
        if following and ahead[0] <= SLACK:
            return following
        return following + int(ahead.argmin())

    def _upright(self, frame: Any) -> NDArray[np.uint8]:
        """A frame as RGB in the size of the video, turned as the file says."""
        width, height = self.size
        rgb = self.converter.reformat(frame, width, height, "rgb24", **self.alone)
        pixels = rgb.to_ndarray()
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels

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


def _small(axis: Axis) -> bool:
    return len(axis.timeline.times) * axis.frame_bytes <= SMALL


def _threads(stream: Any, axis: Axis) -> str:
    """How threads share the decoding so that FFmpeg tells of errors that it conceals.

    Where they share a picture, damage of H.264 is not told; elsewhere that of VP8.
    """
    if _small(axis):
        return "NONE"
    return "SLICE" if stream.codec_context.codec.canonical_name == "vp8" else "FRAME"


@lru_cache(maxsize=1)
def _decord() -> Any:
    """decord, or None where it cannot be imported."""
    # decord retries 10240 times at a broken end of file, which takes minutes.
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "2048")
    try:
        import decord
    except ImportError:
        return None
    decord.logging.set_level(decord.logging.ERROR)
    return decord


def reason(error: Exception) -> str:
    """The first informative line of a decoder's message, without its file names."""
    # What decord and PyAV say of their own code says nothing of the file.
    if "Check failed" in str(error) or isinstance(
        error, (AttributeError, LookupError, UnicodeError)
    ):
        return "the file is damaged"
    message = getattr(error, "strerror", None) or str(error)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text.rstrip(".")[:160]


def kind_of(error: Exception) -> str:
    """The kind of ``VideoError`` that an error is."""
    passing = isinstance(error, MemoryError) or getattr(error, "errno", 0) in MACHINE
    return "machine" if passing else "error"


def serve() -> None:
    """Answer a ``VideoReader`` on standard input and output, until they are closed.

    A request is the name of a method and its arguments, or ``close``. Answers are pairs:
    ``frames`` and their shape, before their bytes; ``end`` and a value, the last; or
    another kind of ``VideoError`` and its reason.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # whatever was inherited
    with tempfile.TemporaryFile("a+b", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        server = _Server(answers, Watch(log))
        server.answer("start")
        while True:
            try:
                request = pickle.load(requests)
            except EOFError:
                return
            if request == "close":  # needs no answer, so that nobody waits for it
                server.video = None
            else:
                server.answer(*request)
                server.prepare()


class _Server:
    def __init__(self, answers: BinaryIO, watch: Watch):
        self.answers, self.watch = answers, watch
        self.video: OpenVideo | None = None
        self.patience = 0.0  # seconds longer that opening may take

    def answer(self, name: str, *arguments: Any) -> None:
        self.watch.log.truncate(0)
        try:
            answer: tuple[str, Any] = "end", getattr(self, name)(*arguments)
        except Exception as error:
            answer = kind_of(error), reason(error)
        self.watch.stop()
        self._send(answer)
        self.answers.flush()

    def _send(self, answer: tuple[str, Any]) -> None:
        pickle.dump(answer, self.answers, protocol=5)

    def prepare(self) -> None:
        """Open the decoder of a new video while the other process chooses frames."""
        if self.video is not None:
            self.watch(self.patience)
            with suppress(Exception):  # is raised again when frames are read
                _ = self.video.source
            self.watch.stop()

    def start(self) -> None:
        pass  # without it no video can be read

    def open(self, path: str, limit: float) -> Timeline:
        self.video, self.watch.limit = None, limit
        # A file of a slow disk is read at a megabyte a second or faster.
        self.patience = os.path.getsize(path) / 1e6
        self.watch(self.patience)
        self.video = OpenVideo(path, self.watch)
        return self.video.timeline

    def decoder(self) -> str:
        assert self.video is not None
        return self.video.source.name

    def read(self, indices: NDArray[np.integer]) -> None:
        assert self.video is not None
        self.watch()
        for frames in self.video.read(indices):
            self._send(("frames", frames.shape))
            self.answers.write(np.ascontiguousarray(frames).data)

    def decode_all(self) -> int:
        assert self.video is not None
        self.watch()
        return self.video.decode_all()
