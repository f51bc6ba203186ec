"""Frames of a video file: which are taken, how they are read, resized and padded.

The only file that imports decord. The rule is the released one: candidates at a fixed
rate, thinned evenly to at most F, padded with zeros and a mask when there are fewer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class VideoError(RuntimeError):
    """A video file without the frames to read; the message names the file."""


def sample_indices(
    num_frames: int,
    fps: float,
    max_frames: int = 12,
    sample_fps: float = 1.0,
    start: float | None = None,
    end: float | None = None,
) -> np.ndarray:
    """Indices (n,) of the frames to read from a video, n at most ``max_frames``.

    Every ``round(fps / sample_fps)``-th frame between ``start`` and ``end`` (seconds,
    by default the whole video) is a candidate; of more than ``max_frames`` candidates
    those at ``linspace(0, n - 1, max_frames)``, truncated, are kept.

    Raises ``ValueError`` for impossible numbers or a segment outside the video.
    """
    if num_frames < 1 or max_frames < 1 or not fps > 0 or not sample_fps > 0:
        raise ValueError(
            "num_frames, max_frames, fps and sample_fps must be positive, got "
            f"{num_frames}, {max_frames}, {fps}, {sample_fps}."
        )
    first = 0 if start is None else int(start * fps)
    last = num_frames - 1 if end is None else min(int(end * fps), num_frames - 1)
    if not 0 <= first <= last:
        raise ValueError(
            f"The segment from {start} to {end} s holds no frame of a video of "
            f"{num_frames / fps:.2f} s."
        )
    candidates = np.arange(first, last + 1, max(1, round(fps / sample_fps)))
    if len(candidates) > max_frames:
        keep = np.linspace(0, len(candidates) - 1, max_frames).astype(int)
        candidates = candidates[keep]
    return candidates


@lru_cache(maxsize=1)
def _decord() -> Any:
    # decord retries 10240 times at a broken end of file, which takes minutes.
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "2048")
    try:
        import decord
    except ImportError as error:
        raise VideoError(
            "decord cannot be imported: it has no wheel for this platform; see the "
            "installation notes."
        ) from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord


class VideoReader:
    """An open video file: ``count`` frames at ``fps``, to be read in several steps.

    Raises ``VideoError`` naming the file when it is missing, empty, not a video, or
    broken at one of the frames to read. A broken frame is never replaced.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise VideoError(f"Video {path} does not exist.")
        if self.path.stat().st_size == 0:
            raise VideoError(f"Video {path} is an empty file.")
        decord = _decord()
        try:
            self._file = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
            self.count, self.fps = len(self._file), float(self._file.get_avg_fps())
        except Exception as error:  # decord raises its own types and RuntimeError
            raise VideoError(
                f"Video {path} cannot be opened: {_reason(error)}."
            ) from error
        if self.count == 0 or not self.fps > 0:
            raise VideoError(f"Video {path} has {self.count} frames at {self.fps} fps.")

    def sample(
        self,
        max_frames: int = 12,
        sample_fps: float = 1.0,
        start: float | None = None,
        end: float | None = None,
    ) -> np.ndarray:
        """``sample_indices`` of this video."""
        try:
            return sample_indices(
                self.count, self.fps, max_frames, sample_fps, start, end
            )
        except ValueError as error:
            raise VideoError(f"Video {self.path}: {error}") from error

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The frames at ``indices`` (n,), ascending: RGB, uint8 (n, H, W, 3)."""
        try:
            return self._file.get_batch(indices.tolist()).asnumpy()
        except Exception as error:
            raise VideoError(
                f"Video {self.path} cannot be decoded at frames {indices[0]} to "
                f"{indices[-1]} of {self.count}: {_reason(error)}."
            ) from error


def read_frames(
    path: str | Path,
    max_frames: int = 12,
    sample_fps: float = 1.0,
    start: float | None = None,
    end: float | None = None,
) -> np.ndarray:
    """Sampled RGB frames of a video file, uint8 (n, H, W, 3) with n <= ``max_frames``.

    Raises ``VideoError`` as ``VideoReader`` does.
    """
    reader = VideoReader(path)
    return reader.read(reader.sample(max_frames, sample_fps, start, end))


class VideoInfo(NamedTuple):
    """What a video file states: frames, frames a second, pixels."""

    frames: int
    fps: float
    width: int
    height: int


def check_video(
    path: str | Path, start: float | None = None, end: float | None = None
) -> VideoInfo:
    """Open a video and decode the first and last of 12 frames sampled at 1 a second.

    Raises ``VideoError`` as ``VideoReader`` does.
    """
    reader = VideoReader(path)
    indices = reader.sample(start=start, end=end)
    _, height, width, _ = reader.read(indices[[0, -1]]).shape
    return VideoInfo(reader.count, reader.fps, width, height)


def resampled(path: str | Path, fps: float, chunk: int = 32) -> Iterator[np.ndarray]:
    """All of a video at ``fps``: uint8 (n, H, W, 3), at most ``chunk`` frames at a time.

    Frame k is the one at k / ``fps`` seconds; no frame of a slower video is taken twice.
    Raises ``VideoError`` as ``VideoReader`` does.
    """
    reader = VideoReader(path)
    times = np.arange(0, reader.count / reader.fps, 1 / fps)
    frames = np.round(times * reader.fps).astype(int).clip(max=reader.count - 1)
    indices = np.unique(frames)
    for first in range(0, len(indices), chunk):
        yield reader.read(indices[first : first + chunk])


def _reason(error: Exception) -> str:
    """The first informative line of a decoder's message, without its file names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return re.sub(r"^(\[.*?\] )?\S+:\d+: ", "", text).rstrip(".")[:160]


def resize_crop(frames: np.ndarray, size: int) -> np.ndarray:
    """CLIP's view of frames: uint8 (n, H, W, 3) to uint8 (n, ``size``, ``size``, 3).

    The shorter side becomes ``size`` (bicubic, antialiased), then the centre is cut.
    """
    resized = resize_shorter(frames, size)
    top, left = (round((side - size) / 2) for side in resized.shape[1:3])
    return np.ascontiguousarray(resized[:, top : top + size, left : left + size])


def resize_shorter(frames: np.ndarray, size: int) -> np.ndarray:
    """uint8 (n, H, W, 3) with the shorter side ``size``: bicubic, antialiased."""
    _, height, width, _ = frames.shape
    short = min(height, width)
    if short == size:
        return frames
    new = (size * height // short, size * width // short)
    x = torch.from_numpy(frames).permute(0, 3, 1, 2)
    x = F.interpolate(x, size=new, mode="bicubic", antialias=True)
    return x.permute(0, 2, 3, 1).contiguous().numpy()


def normalise(
    frames: np.ndarray, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """uint8 (n, S, S, 3) to fp32 pixels (n, 3, S, S), standardised per channel."""
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
    shift = torch.tensor(mean).view(1, 3, 1, 1)
    scale = torch.tensor(std).view(1, 3, 1, 1)
    return ((x - shift) / scale).contiguous()


def preprocess(
    frames: np.ndarray, image_size: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Frames as read, uint8 (n, H, W, 3), to the pixels (n, 3, S, S) CLIP expects."""
    return normalise(resize_crop(frames, image_size), mean, std)


def pad_frames(pixels: Tensor, max_frames: int) -> tuple[Tensor, Tensor]:
    """Pad (n, ...) with zeros to F = ``max_frames``: pixels (F, ...) and mask (F,).

    The mask is True on the n real frames. Raises ``ValueError`` for 0 or more than F.
    """
    n = pixels.shape[0]
    if not 1 <= n <= max_frames:
        raise ValueError(f"Expected 1 to {max_frames} frames to pad, got {n}.")
    padded = pixels.new_zeros((max_frames, *pixels.shape[1:]))
    padded[:n] = pixels
    return padded, torch.arange(max_frames) < n
