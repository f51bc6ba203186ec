"""A video file on the time axis that a player shows.

Decoders are native code, which a damaged file can make crash or never return. They run
in a process of their own, see ``decoders``, that is ended and replaced where that
happens: it costs the file, and one sentence. The process is started on first use and
serves one video after the other.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import weakref
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glscl.data.timeline import Timeline
from glscl.util.files import printable

LIMIT = 30.0  # seconds without a decoded frame after which a decoder is ended
#: A process with the search path of this one, which need not be an installed package.
START = (
    "import importlib, sys; sys.path[:] = sys.argv[2:]; "
    "importlib.import_module(sys.argv[1]).serve()"
)
PROGRAM = "glscl.data.decoders"
#: How a decoder ends itself after ``LIMIT``: with a status, or by a signal.
TIMED_OUT = (1, -getattr(signal, "SIGALRM", -1))


class VideoError(RuntimeError):
    """A video file that cannot give the frames asked of it; the message names it.

    ``kind``: ``error`` (the file is damaged, or no video), ``crash`` or ``timeout`` (of
    the decoder), or ``machine``: the file may be whole, but a permission, memory or the
    disk is lacking, so that another attempt may succeed.
    """

    def __init__(self, message: str, kind: str = "error"):
        super().__init__(message)
        self.kind = kind


class VideoReader:
    """An open video: its time axis, and frames by number. Every method raises
    ``VideoError`` naming the file when it is missing, empty, no video, or broken at a
    frame that is asked for, and where its decoder crashes or decodes nothing for
    ``LIMIT`` seconds; a broken frame is never replaced by another.
    """

    timeline: Timeline

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.name = printable(str(path))
        self._check_readable()
        self._process = _idle.pop() if _idle else _Process()
        release = weakref.finalize(self, self._process.release)
        # Decoders take a name with a colon for a protocol, an absolute path for none.
        absolute = os.path.abspath(path)
        try:
            asked = self._ask("cannot be opened: {}", "open", absolute, LIMIT)
        except VideoError:
            release()
            raise
        self.timeline = asked[1]

    def _check_readable(self) -> None:
        try:
            if not self.path.is_file():
                what = "is no file" if self.path.exists() else "does not exist"
                raise VideoError(f"Video {self.name} {what}.")
            with self.path.open("rb") as file:
                if not file.read(1):
                    raise VideoError(f"Video {self.name} is an empty file.")
        except OSError as error:
            raise VideoError(
                f"Video {self.name} cannot be read: {error.strerror}.", "machine"
            ) from error

    def read(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The frames at ``indices`` (k,), ascending: RGB, uint8 (k, H, W, 3)."""
        unique, places = np.unique(indices, return_inverse=True)
        what = f"cannot be decoded at frames {unique[0]} to {unique[-1]} of "
        what += f"{len(self.timeline.times)}: {{}}"
        frames, _ = self._ask(what, "read", unique)
        return frames if len(unique) == len(indices) else frames[places]

    @property
    def decoder(self) -> str:
        """What gives the frames: ``"decord"`` or ``"PyAV"``."""
        return self._ask("cannot be decoded: {}", "decoder")[1]

    def decode_all(self) -> int:
        """How many frames can be decoded, which must all be without any damage."""
        return self._ask("is {}", "decode_all")[1]

    def _ask(self, what: str, name: str, *arguments: Any) -> tuple[Any, Any]:
        try:
            return self._process.ask(name, *arguments)
        except VideoError as error:
            sentence = f"Video {self.name} {what.format(error)}."
            raise VideoError(sentence, error.kind) from error


class _Process:
    """A process that decodes, see ``decoders.serve``."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        # In a session of its own, so that Ctrl-C reaches only the one that asks.
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, PROGRAM, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.settled = True  # whether what it does for a file has ended
        weakref.finalize(self, _kill, self.process, self.owner)
        try:
            self._answer(0)
        except (EOFError, VideoError) as error:
            self.process.stdin.close()  # type: ignore[union-attr]
            ended = f"a process for it ends with status {self.process.wait()}"
            reason = error if isinstance(error, VideoError) else ended
            raise RuntimeError(f"Videos cannot be decoded here: {reason}.") from error

    def ask(self, name: str, *arguments: Any) -> tuple[Any, Any]:
        """The frames, if there are any, and the value that a method returns."""
        if self.process.returncode is not None:
            raise self._ended()
        frames = len(arguments[0]) if name == "read" else 0
        try:
            self._send((name, *arguments))
            answer = self._answer(frames)
            self.settled = name != "open"
            return answer
        except (BrokenPipeError, EOFError, pickle.UnpicklingError) as error:
            raise self._ended() from error
        except VideoError:
            raise
        except BaseException:  # such as Ctrl-C: what is still to come is not wanted
            self.end()
            raise

    def _send(self, request: Any) -> None:
        pickle.dump(request, self.process.stdin)  # type: ignore[arg-type]
        self.process.stdin.flush()  # type: ignore[union-attr]

    def _answer(self, count: int) -> tuple[Any, Any]:
        answers: Any = self.process.stdout
        frames, done = None, 0
        while True:
            kind, value = pickle.load(answers)
            if kind == "end":
                return frames, value
            if kind != "frames":
                raise VideoError(value, kind)
            if frames is None:
                frames = np.empty((count, *value[1:]), np.uint8)
            part = memoryview(frames[done : done + value[0]]).cast("B")
            while part:
                received = answers.readinto(part)
                if not received:
                    raise EOFError
                part = part[received:]
            done += value[0]

    def _ended(self) -> VideoError:
        """Why there is no answer."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.end()
        status = self.process.returncode
        if status in TIMED_OUT:
            return VideoError(f"nothing was decoded for {LIMIT:g} s", "timeout")
        kind = "machine" if status == -9 else "crash"  # -9: usually for want of memory
        return VideoError(f"the decoder crashed (status {status})", kind)

    def end(self) -> None:
        """End the process, unless it has ended."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]

    def release(self) -> None:
        """Keep the process for another video, if it is idle and there is none yet."""
        if self.owner != os.getpid() or self.process.poll() is not None:
            return
        if _idle or not self.settled:
            self.end()
            return
        with contextlib.suppress(BrokenPipeError):
            self._send("close")
            _idle.append(self)


def _kill(process: subprocess.Popen, owner: int) -> None:
    """End a decoder with the process that asks it; a copy of that must not."""
    if owner == os.getpid():
        process.kill()


_idle: list[_Process] = []
if hasattr(os, "register_at_fork"):  # a copy of this process must not ask its decoders
    os.register_at_fork(after_in_child=_idle.clear)


def decoder_version() -> str:
    """The decoders and their versions: another one may read what this one cannot."""
    versions = []
    for name in ("av", "decord", "eva-decord"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    return ", ".join(versions)
