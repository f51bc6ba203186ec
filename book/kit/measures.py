"""Measures that several chapters report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glscl import metrics
from glscl.util.shapes import check_shape

if TYPE_CHECKING:
    from torch import Tensor

    from glscl.data.split import Split


def r1_by_kind(scores: Tensor, split: Split) -> dict[str, float]:
    """Text→video R@1 in % of each kind of caption, from ``scores`` (A, B)."""
    kinds = [caption.kind for caption in split.captions]
    found = metrics.by_kind(scores, split.caption_to_video, kinds)
    return {kind: found[kind]["R1"] for kind in dict.fromkeys(kinds)}


def inner_cosines(concepts: Tensor) -> Tensor:
    """Mean cosine (N,) of two different concepts of each item, of (N, Q, D).

    ``concepts`` have unit length.
    """
    Q = check_shape(concepts, "N Q D", "concepts")["Q"]
    total = concepts.sum(dim=1).square().sum(dim=-1)  # of all Q² cosines
    return (total - Q) / (Q * (Q - 1))
