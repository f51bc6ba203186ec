"""Two-stage retrieval: a coarse score finds candidates, a fine one is computed of them.

    coarse (A, B) → the k best of every caption (or video) → fine scores of these alone.

The fine stage goes video by video and takes all captions that recalled it together. So
no frame or patch is copied, and each video is one matrix product; gathering the
candidates of each caption instead would move k videos' worth of patches per caption,
which costs more than it saves.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from glscl.util.shapes import check_shape

#: Who has a shortlist. For text to video search, captions recall videos. Reading the
#: same scores by columns, as the release of EERCF does for video to text, asks for
#: captions that happened to recall a video; ``"captions of videos"`` gives every video
#: a shortlist of its own.
Recall = Literal["videos of captions", "captions of videos"]


def recalled(
    coarse: Tensor, shortlist: int, recall: Recall = "videos of captions"
) -> Tensor:
    """Which pairs (A, B) are among the ``shortlist`` best of their caption or video."""
    A, B = check_shape(coarse, "A B", "coarse").values()
    if shortlist < 1:
        raise ValueError(f"shortlist must be at least 1, got {shortlist}.")
    if recall not in ("videos of captions", "captions of videos"):
        raise ValueError(
            "recall must be 'videos of captions' or 'captions of videos', got "
            f"{recall!r}."
        )
    dim, size = (1, B) if recall == "videos of captions" else (0, A)
    best = coarse.topk(min(shortlist, size), dim=dim).indices
    return torch.zeros_like(coarse, dtype=torch.bool).scatter(dim, best, True)


@torch.no_grad()
def rerank(
    coarse: Tensor,
    score: Callable[[Tensor, int], Tensor],
    shortlist: int = 50,
    recall: Recall = "videos of captions",
) -> Tensor:
    """Scores (A, B) by which the recalled pairs stand above all others.

    ``coarse``: (A, B). ``score(captions, b)`` gives the fine scores (n,) of n captions,
    by their numbers (n,), with video b; it is called for recalled pairs alone. Other
    pairs keep their coarse order. Raises ``ValueError`` for a shortlist below 1.
    """
    pairs = recalled(coarse, shortlist, recall)
    fine = torch.full_like(coarse, float("inf"))
    videos, captions = pairs.T.nonzero(as_tuple=True)
    counts = torch.bincount(videos, minlength=coarse.shape[1]).tolist()
    for b, rows in enumerate(captions.split(counts)):
        if len(rows):
            fine[rows, b] = score(rows, b).to(fine.dtype)
    # Just enough to lift the worst fine score above the best coarse one that is left: a
    # large constant would cost the digits that tell close candidates apart.
    left = coarse.masked_fill(pairs, float("-inf")).max()
    lift = (left - fine.min() + 1).clamp_min(0)
    return torch.where(pairs, fine + lift, coarse)
