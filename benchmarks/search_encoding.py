"""How fast videos become an index, and which stage takes the time."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from glscl.model import GLSCL
from glscl.search.build import update

SIDE = (240, 320)  # pixels of a made video, as the public benchmarks are passed around
FPS, SECONDS = 25, 20
TIME_BASE = Fraction(1, FPS)


def write_video(path: Path, seed: int, side: tuple[int, int], seconds: int) -> None:
    """A video of drifting colours, not one still picture repeated."""
    rng = np.random.default_rng(seed)
    height, width = side
    coarse = rng.integers(0, 256, (seconds + 2, height // 8, width // 8, 3))
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = TIME_BASE
        for i in range(seconds * FPS):
            whole, part = divmod(i / FPS, 1)
            mixed = (1 - part) * coarse[int(whole)] + part * coarse[int(whole) + 1]
            pixels = mixed.astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def encoding(
    backbone: str,
    videos: int,
    side: tuple[int, int] = SIDE,
    seconds: int = SECONDS,
) -> dict[str, Any]:
    """Index made videos with a full GLSCL of random weights: seconds by stage."""
    torch.manual_seed(0)
    name = "mini" if backbone == "mini" else "msrvtt"
    model = GLSCL.from_preset(name, backbone=backbone, pretrained=None)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work, "videos")
        folder.mkdir()
        for i in range(videos):
            write_video(folder / f"{i}.mp4", i, side, seconds)
        report = update(Path(work, "index"), folder, model, progress=False)
    spent = {k: v for k, v in report.seconds.items() if k != "total"}
    total = report.seconds["total"]
    return {
        "backbone": backbone,
        "video": f"{side[1]} × {side[0]}, {FPS} fps, {seconds} s, H.264",
        "videos": videos,
        "windows": report.windows,
        "windows_per_second": report.windows / total,
        "video_seconds_per_second": videos * seconds / total,
        "seconds": report.seconds,
        "share": {stage: s / total for stage, s in spent.items()},
    }
