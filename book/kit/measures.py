"""Measures that several chapters report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glscl import metrics
from glscl.util.shapes import check_shape

if TYPE_CHECKING:
    from torch import Tensor

    from glscl.data.split import Split


def by_kind(scores: Tensor, split: Split) -> dict[str, metrics.Direction]:
    """Text→video metrics of each kind of caption against all videos: ``scores`` (A, B)."""
    found = {}
    for kind in dict.fromkeys(caption.kind for caption in split.captions):
        rows = split.captions_of_kind(kind)
        owner = split.caption_to_video[rows]
        found[kind] = metrics.text_to_video_ranks(scores[rows], owner).summary()
    return found


def r1_by_kind(scores: Tensor, split: Split) -> dict[str, float]:
    """Text→video R@1 in % of each kind of caption, from ``scores`` (A, B)."""
    return {kind: row["R1"] for kind, row in by_kind(scores, split).items()}


def inner_cosines(concepts: Tensor) -> Tensor:
    """Mean cosine (N,) of two different concepts of each item, of (N, Q, D).

    ``concepts`` have unit length.
    """
    Q = check_shape(concepts, "N Q D", "concepts")["Q"]
    total = concepts.sum(dim=1).square().sum(dim=-1)  # of all Q² cosines
    return (total - Q) / (Q * (Q - 1))
