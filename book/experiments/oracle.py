"""What an ideal reader of the built-in benchmark would score.

The contents of every clip and caption are known, so it can be computed which captions
are true of which clips, and which frames a caption is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from glscl.mini.grammar import Caption
from glscl.mini.scenes import ATTRIBUTES, Clip
from glscl.mini.synthetic import Benchmark

#: What a reader of ``oracle_scores`` understands, from least to most.
LEVELS = ("objects", "motion", "order")


def shot_of_frame(clip: Clip, frame: int) -> int:
    """Which shot of ``clip`` shows ``frame``. ``IndexError`` outside the clip."""
    for index, shot in enumerate(clip.shots):
        if shot.start <= frame < shot.stop:
            return index
    raise IndexError(f"{clip.id} has frames 0 to {clip.shots[-1].stop - 1}.")


def relevant_frames(
    clip: Clip, caption: Caption, frames: Iterable[int]
) -> NDArray[np.bool_]:
    """Which of ``frames`` (F,), numbers in the clip, show a shot the caption is about."""
    return np.array([shot_of_frame(clip, frame) in caption.shots for frame in frames])


def oracle_scores(
    benchmark: Benchmark, split: str, level: str = "order"
) -> NDArray[np.float32]:
    """Scores (A, B) of a reader that understands everything up to ``level``.

    1 where the caption is true of the video, else 0. "objects": colour, shape, size and
    background; "motion": also what moves how; "order": also what comes first. Captions
    are ambiguous, so even this reader has ties: ranked with expected ties, the scores
    give the highest result that can be reached on the benchmark.
    Raises ``ValueError`` for an unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"Unknown level {level!r}: expected one of {list(LEVELS)}.")
    clips, captions = benchmark.clips(split), benchmark.captions(split)
    names = [name for name in ATTRIBUTES if level != "objects" or name != "motion"]
    # shown: (B, shots, attributes), the value of every attribute as a number
    shown = np.array(
        [
            [[ATTRIBUTES[n].index(getattr(shot, n)) for n in names] for shot in c.shots]
            for c in clips
        ]
    )
    owner = np.repeat(np.arange(len(clips)), len(captions) // len(clips))
    rows = [
        _true_of(caption, shown[video], names, shown, ordered=level == "order")
        for caption, video in zip(captions, owner, strict=True)
    ]
    return np.stack(rows).astype(np.float32)


def _true_of(
    caption: Caption,
    own: NDArray[np.int64],
    names: Sequence[str],
    shown: NDArray[np.int64],
    ordered: bool,
) -> NDArray[np.bool_]:
    """Which videos (B,) ``caption`` is true of; ``own`` (shots, attributes) is its own.

    Every mention needs a different shot that fits, later mentions a later one if
    ``ordered``. A depth-first search over the mentions, all videos at once.
    """
    fits = []  # per mention (B, shots)
    for mention in caption.mentions:
        named = [i for i, name in enumerate(names) if name in mention.attributes]
        fits.append((shown[:, :, named] == own[mention.shot, named]).all(-1))
    shots = range(shown.shape[1])

    def search(position: int, used: tuple[int, ...]) -> NDArray[np.bool_]:
        true = np.full(len(shown), position == len(fits))
        if position == len(fits):
            return true
        for shot in shots:
            allowed = shot > max(used, default=-1) if ordered else shot not in used
            if allowed:
                true |= fits[position][:, shot] & search(position + 1, (*used, shot))
        return true

    return search(0, ())
