"""Frames of a video file: which are taken, how they are resized and padded.

The rules are the released ones: candidates at a fixed rate, thinned evenly to at most F,
padded with zeros and a mask when there are fewer. Where the time between frames varies,
which the releases do not consider, candidates are the frames shown at even times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from glscl.data.timeline import Timeline
from glscl.data.video import VideoError, VideoReader
from glscl.util.settings import check


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
    _check_positive(
        num_frames=num_frames, max_frames=max_frames, fps=fps, sample_fps=sample_fps
    )
    first = 0 if start is None else int(start * fps)
    last = num_frames - 1 if end is None else min(int(end * fps), num_frames - 1)
    if not 0 <= first <= last:
        raise _no_frame(start, end, num_frames / fps)
    step = max(1, round(fps / sample_fps))
    return _thinned(np.arange(first, last + 1, step), max_frames)


def second_indices(
    num_frames: int,
    fps: float,
    max_frames: int = 12,
    start: float | None = None,
    end: float | None = None,
) -> np.ndarray:
    """Indices (n,) of the frames that the release reads for DiDeMo and ActivityNet.

    Candidates are the frames at ``int(fps)`` times every second from ``start`` to
    ``end``, both included: at 29.97 frames a second they come ever earlier. Thinned as
    in ``sample_indices``, with the same errors.
    """
    _check_positive(num_frames=num_frames, max_frames=max_frames, whole_fps=fps // 1)
    rate = int(fps)
    last = -(-num_frames // rate) if end is None else int(end)
    candidates = np.arange(int(start or 0), last + 1) * rate
    candidates = candidates[(candidates >= 0) & (candidates < num_frames)]
    if not len(candidates):
        raise _no_frame(start, end, num_frames / fps)
    return _thinned(candidates, max_frames)


def sample_timeline(
    timeline: Timeline,
    max_frames: int = 12,
    sample_fps: float = 1.0,
    start: float | None = None,
    end: float | None = None,
    rule: str = "stride",
) -> NDArray[np.int64]:
    """``sample_indices`` of a video whose frames are shown at the times of ``timeline``.

    Where the rate is not constant, the candidates are the frames shown at ``start`` (0)
    and every 1 / ``sample_fps`` seconds after it, each frame once. ``rule="seconds"``:
    ``second_indices`` at the mean rate.
    """
    check(Literal["stride", "seconds"], rule, "rule")
    count = len(timeline.times)
    if rule == "seconds":
        return second_indices(count, timeline.fps, max_frames, start, end)
    if timeline.constant:
        return sample_indices(count, timeline.fps, max_frames, sample_fps, start, end)
    _check_positive(max_frames=max_frames, sample_fps=sample_fps)
    first, last = start or 0.0, timeline.end if end is None else min(end, timeline.end)
    if not 0 <= first <= last or first >= timeline.end:
        raise _no_frame(start, end, timeline.end)
    steps = np.arange(int((last - first) * sample_fps + 1e-9) + 1)
    seconds = first + steps / sample_fps
    within = seconds[seconds < timeline.end]
    return _thinned(np.unique(timeline.index_at(within)), max_frames)


def _check_positive(**numbers: float) -> None:
    if not all(number > 0 for number in numbers.values()):
        given = ", ".join(f"{name} = {number}" for name, number in numbers.items())
        raise ValueError(f"All must be positive: {given}.")


def _no_frame(start: float | None, end: float | None, length: float) -> ValueError:
    return ValueError(
        f"The segment from {start} to {end} s holds no frame of a video of {length:.2f} s."
    )


def _thinned(candidates: NDArray[np.int64], max_frames: int) -> NDArray[np.int64]:
    if len(candidates) <= max_frames:
        return candidates
    return candidates[np.linspace(0, len(candidates) - 1, max_frames).astype(int)]


def sample_video(
    reader: VideoReader,
    max_frames: int = 12,
    sample_fps: float = 1.0,
    start: float | None = None,
    end: float | None = None,
    rule: str = "stride",
) -> NDArray[np.int64]:
    """``sample_timeline`` of an open video; ``VideoError`` names the file."""
    chosen = max_frames, sample_fps, start, end, rule
    try:
        return sample_timeline(reader.timeline, *chosen)
    except ValueError as error:
        raise VideoError(f"Video {reader.path}: {error}") from error


def read_frames(
    path: str | Path,
    max_frames: int = 12,
    sample_fps: float = 1.0,
    start: float | None = None,
    end: float | None = None,
    rule: str = "stride",
) -> np.ndarray:
    """Sampled RGB frames of a video file, uint8 (n, H, W, 3) with n <= ``max_frames``.

    The other arguments are those of ``sample_timeline``. Raises ``VideoError`` as
    ``VideoReader`` does.
    """
    reader = VideoReader(path)
    return reader.read(sample_video(reader, max_frames, sample_fps, start, end, rule))


def resampled(path: str | Path, fps: float, chunk: int = 32) -> Iterator[np.ndarray]:
    """All of a video at ``fps``: uint8 (n, H, W, 3), at most ``chunk`` frames at a time.

    Frame k is the one nearest to k / ``fps`` seconds, and none is taken twice. Where the
    time between frames varies it is the one shown then, again where nothing changes, so
    that the copy keeps its length. Raises ``VideoError`` as ``VideoReader`` does.
    """
    reader = VideoReader(path)
    timeline = reader.timeline
    seconds = np.arange(0, timeline.end, 1 / fps)
    if timeline.constant:
        frames = np.round(seconds * timeline.fps).astype(int)
        indices = np.unique(frames.clip(max=len(timeline.times) - 1))
    else:
        indices = timeline.index_at(seconds)
    for first in range(0, len(indices), chunk):
        yield reader.read(indices[first : first + chunk])


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
    shift, scale = (torch.tensor(value).view(1, 3, 1, 1) for value in (mean, std))
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
