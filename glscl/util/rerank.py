"""Two-stage retrieval: coarse scores select candidates, fine scores rank them.

    coarse (A, B) → the k best of every caption (or video) → fine scores of these alone.

The fine stage takes one video at a time, with all captions that recalled it. So no frame
or patch is copied, and each video needs one matrix product; gathering the candidates of
each caption instead would copy the patches of k videos for every caption, which costs
more time than it saves.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from glscl.util.shapes import check_shape

#: What has a shortlist. For text to video search, every caption recalls videos. The
#: release of EERCF reads the same scores by columns for video to text, which ranks the
#: captions that recalled a video; ``"captions of videos"`` gives every video a shortlist.
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
    return torch.zeros_like(coarse, dtype=torch.bool).scatter(dim, best, 1)


@torch.no_grad()
def rerank(
    coarse: Tensor,
    score: Callable[[Tensor, int], Tensor],
    shortlist: int = 50,
    recall: Recall = "videos of captions",
) -> Tensor:
    """Scores (A, B) that rank the recalled pairs above all others.

    ``coarse``: (A, B). ``score(captions, b)`` gives the fine scores (n,) of n captions,
    given by their indices (n,), with video b; it is called for recalled pairs alone. Other
    pairs keep their coarse order. Raises ``ValueError`` for a shortlist below 1.
    """
    pairs = recalled(coarse, shortlist, recall)
    fine = torch.full_like(coarse, float("inf"))
    videos, captions = pairs.T.nonzero(as_tuple=True)
    counts = torch.bincount(videos, minlength=coarse.shape[1]).tolist()
    for b, rows in enumerate(captions.split(counts)):
        if len(rows):
            fine[rows, b] = score(rows, b).to(fine.dtype)
    # The smallest number that puts the worst fine score above the best coarse one that is
    # left: adding a large one would round away small differences between candidates.
    left = coarse.masked_fill(pairs, float("-inf")).max()
    lift = (left - fine.min() + 1).clamp_min(0)
    return torch.where(pairs, fine + lift, coarse)
