"""What a search finds: a part of a video, with the weights of its frames."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glscl.data.videofiles import State


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
    state: State
