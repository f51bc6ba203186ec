"""RGB frames as MP4 and JPEG files, in memory or on disk."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Settings of libx264. Without B-frames, because with them its look-ahead decides
#: differently from one run to the next for about one clip in thirteen this small.
ENCODER = {"crf": "23", "preset": "veryfast", "threads": "1", "bf": "0"}


def encode_mp4(frames: NDArray[np.uint8], fps: int, comment: str = "") -> bytes:
    """The MP4 file (H.264, ``fps`` frames a second) of RGB ``frames`` (T, H, W, 3).

    The same frames give the same bytes with the same build of PyAV, see ``ENCODER``.
    ``comment`` is stored in the file.
    """
    memory = io.BytesIO()
    write_mp4(memory, frames, Fraction(fps), ENCODER, comment)
    return memory.getvalue()


def write_mp4(
    file: Any,
    frames: Iterable[NDArray[np.uint8]],
    fps: Fraction,
    options: Mapping[str, str],
    comment: str = "",
) -> None:
    """Write RGB ``frames``, each (H, W, 3) with even sides, to a path or open ``file``.

    ``options``: of libx264.
    """
    import av

    stream = None
    with av.open(file, "w", format="mp4") as container:
        container.metadata["comment"] = comment
        for index, pixels in enumerate(frames):
            if stream is None:
                stream = container.add_stream("libx264", fps, options=dict(options))
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt, stream.time_base = "yuv420p", 1 / fps
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """One frame (h, w, 3) as a JPEG file."""
    from PIL import Image

    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, format="JPEG", quality=80)
    return memory.getvalue()
