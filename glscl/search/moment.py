"""What a search finds: a part of a video, with the weights of its frames."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class FileState(NamedTuple):
    """By what a changed file is recognised: bytes, and nanoseconds of its last change."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """The present state; of a link that leads nowhere, that of the link.

        Raises ``OSError`` where there is no such file.
        """
        try:
            stat = path.stat()
        except OSError:
            stat = path.lstat()
        return cls(stat.st_size, stat.st_mtime_ns)


class Moment(NamedTuple):
    """A window that was found: seconds ``start`` to ``end`` of the video at ``path``.

    ``frame_times`` (n,) are the seconds of its frames and ``frame_weights`` (n,) the
    attention weights of the sentence on them; ``row`` is its number in this version of
    the index, ``state`` that of the file when it was indexed.
    """

    path: Path
    start: float
    end: float
    score: float
    frame_times: NDArray[np.float32]
    frame_weights: NDArray[np.float32]
    row: int
    state: FileState
