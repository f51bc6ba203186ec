"""Retrieval metrics with a stated tie rule, in both directions.

Similarities are (A, B): captions are rows, videos are columns. Recalls are in percent,
ranks count from 1, and every result carries its numbers of queries and gallery items.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypedDict

import torch
from torch import Tensor

from glscl.util.shapes import check_shape

Ties = Literal["expected", "optimistic", "pessimistic"]


class Direction(TypedDict):
    """Metrics of one direction: recalls in %, ranks, and what they were taken over."""

    R1: float
    R5: float
    R10: float
    R50: float
    MdR: float
    MnR: float
    queries: int
    gallery: int


class Metrics(TypedDict):
    """``t2v``: captions query videos. ``v2t``: videos query captions (groups)."""

    t2v: Direction
    v2t: Direction


#: Which weights a training keeps, by ``TrainConfig.keep``: what is compared of text→video
#: on a validation, and whether the later of equal ones wins. ``"released"``: GLSCL and
#: GLCCL, ``"recalls"``: EERCF.
#:
#: :meta hide-value:
RULES: dict[str, tuple[Callable[[Direction], Any], bool]] = {
    "best": (lambda m: (m["R1"], -m["MnR"]), False),
    "released": (lambda m: m["R1"], True),
    "recalls": (lambda m: m["R1"] + m["R5"] + m["R10"], True),
}


class Ranks(NamedTuple):
    """How many gallery items beat or tie with the right one, for each query.

    ``better`` and ``ties`` (N,): counts of strictly better and of equal other items.
    ``gallery``: number of items the right one competes with, itself included.
    """

    better: Tensor
    ties: Tensor
    gallery: int

    def rank(self, ties: Ties = "expected") -> Tensor:
        """Rank (N,) from 1 by the given tie rule; the expected one may be fractional."""
        before = {"expected": 0.5, "optimistic": 0.0, "pessimistic": 1.0}
        if ties not in before:
            raise ValueError(f"Unknown tie rule {ties!r}: expected one of {[*before]}.")
        return 1 + self.better + before[ties] * self.ties

    def hits(self, k: int, ties: Ties = "expected") -> Tensor:
        """Chance (N,) that the right item is among the first k.

        With the rule ``expected`` ties are ordered at random:
        clamp((k - better) / (ties + 1), 0, 1).
        """
        if ties == "expected":
            return ((k - self.better) / (self.ties + 1)).clamp(0, 1)
        return (self.rank(ties) <= k).double()

    def summary(self, ties: Ties = "expected") -> Direction:
        """Recalls, median and mean rank."""
        rank = self.rank(ties)
        recalls = {
            f"R{k}": 100 * self.hits(k, ties).mean().item() for k in (1, 5, 10, 50)
        }
        return Direction(
            **recalls,  # type: ignore[typeddict-item]
            MdR=rank.quantile(0.5).item(),
            MnR=rank.mean().item(),
            queries=len(rank),
            gallery=self.gallery,
        )


def _ranks(scores: Tensor, right: Tensor, dim: int) -> Ranks:
    """Ranks of the ``right`` scores, broadcast, among all those along ``dim``."""
    better, ties = (scores > right).sum(dim), (scores == right).sum(dim) - 1
    return Ranks(better.double(), ties.double(), scores.shape[dim])


def _checked(similarity: Tensor, caption_to_video: Tensor | None) -> Tensor:
    """The video (A,) of every caption. ``ValueError`` where the input is wrong."""
    A, B = check_shape(similarity, "A B", "similarity").values()
    if A == 0 or B == 0:
        raise ValueError(f"similarity is empty: shape {(A, B)}.")
    # A sum meets every NaN and infinity without a copy of the scores.
    if not similarity.sum().isfinite() and (bad := ~similarity.isfinite()).any():
        a, b = bad.nonzero()[0].tolist()
        raise ValueError(
            f"similarity has {int(bad.sum())} values that are not finite, the first at "
            f"caption {a}, video {b}."
        )
    if caption_to_video is None:
        if A != B:
            raise ValueError(
                f"similarity has {A} captions and {B} videos: give caption_to_video, "
                "the video of each caption."
            )
        return torch.arange(A, device=similarity.device)
    check_shape(caption_to_video, "A", "caption_to_video", A=A)
    caption_to_video = caption_to_video.to(similarity.device)
    if int(caption_to_video.min()) < 0 or int(caption_to_video.max()) >= B:
        raise ValueError(f"caption_to_video must hold video indices from 0 to {B - 1}.")
    return caption_to_video


def text_to_video_ranks(
    similarity: Tensor, caption_to_video: Tensor | None = None
) -> Ranks:
    """Every caption queries the videos; the right item is its own video."""
    caption_to_video = _checked(similarity, caption_to_video)
    return _ranks(similarity, similarity.gather(1, caption_to_video[:, None]), dim=1)


def video_to_text_ranks(
    similarity: Tensor, caption_to_video: Tensor | None = None
) -> Ranks:
    """Every video that has captions queries the videos' caption groups.

    A group's score is the maximum over its captions, and the right item is the video's
    own group. With one caption per video the groups are the captions.
    """
    caption_to_video = _checked(similarity, caption_to_video)
    B = similarity.shape[1]
    groups = similarity.new_full((B, B), float("-inf"))  # (group, video)
    # Some videos at a time: the index is as large as the scores that it sorts.
    for part, scores in zip(groups.split(64, 1), similarity.split(64, 1), strict=True):
        index = caption_to_video[:, None].expand_as(scores)
        part.scatter_reduce_(0, index, scores, reduce="amax")
    described = torch.zeros(B, dtype=torch.bool, device=groups.device)
    described[caption_to_video] = True
    groups = groups[described][:, described]
    return _ranks(groups, groups.diagonal(), dim=0)


def retrieval_metrics(
    similarity: Tensor, ties: Ties = "expected", caption_to_video: Tensor | None = None
) -> Metrics:
    """R@{1,5,10,50} in %, median and mean rank, in both directions.

    ``similarity``: (A, B). ``caption_to_video`` (A,) gives the own video of each caption
    and may be left out when caption i belongs to video i. Median rank is the mean of the
    two middle values when the number of queries is even.

    Raises ``ValueError`` for shapes that do not fit and for values that are not finite.
    """
    return Metrics(
        t2v=text_to_video_ranks(similarity, caption_to_video).summary(ties),
        v2t=video_to_text_ranks(similarity, caption_to_video).summary(ties),
    )


def chance(gallery: int, k: int = 1) -> float:
    """R@k in % of random scores: k out of ``gallery`` items."""
    return 100 * min(k, gallery) / gallery


def qb_norm(
    similarity: Tensor,
    bank_similarity: Tensor,
    k: int = 1,
    beta: float = 20.0,
    theta: int = 1,
) -> Tensor:
    """Querybank normalisation with a dynamic inverted softmax, (A, B) to (A, B).

    ``bank_similarity`` (N, B): bank queries, from the training captions, against the
    same gallery. Gallery items that at least ``theta`` bank queries have among their
    top ``k`` are hubs; a row of ``similarity`` whose best item is a hub becomes
    ``S_ab - log(sum_n exp(beta N_nb)) / beta``, the order of the inverted softmax
    without its overflow. Other rows stay, so scores compare within a row only.

    Source: Bogolin et al. 2022 (QB-Norm).
    """
    B = check_shape(similarity, "A B", "similarity")["B"]
    check_shape(bank_similarity, "N B", "bank_similarity", B=B)
    if not 1 <= k <= B or not beta > 0:
        raise ValueError(
            f"k must lie between 1 and {B} and beta be positive, got {k} and {beta}."
        )
    top = bank_similarity.topk(k, dim=1).indices.flatten()
    hubs = torch.bincount(top, minlength=B) >= theta  # (B,)
    correction = torch.logsumexp(beta * bank_similarity, dim=0) / beta  # (B,)
    touched = hubs[similarity.argmax(dim=1)]  # (A,)
    return torch.where(touched[:, None], similarity - correction, similarity)


def dual_softmax(similarity: Tensor, scale: float = 100.0) -> Tensor:
    """DSL: ``S_ab * softmax_a(scale S_ab)``, (A, B) to (A, B).

    Transductive: it uses all test queries at once, so its numbers must carry that
    label. Source: Cheng et al. 2021.
    """
    check_shape(similarity, "A B", "similarity")
    return similarity * torch.softmax(scale * similarity, dim=0)


def bootstrap_interval(
    values: Tensor,
    groups: Tensor | None = None,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean of ``values`` (N,) when queries are drawn again.

    Queries with the same number in ``groups`` (N,), such as captions of one video, are
    no independent evidence: whole groups are drawn. For a recall give
    ``100 * ranks.hits(k)``; for a paired difference the difference of two such tensors.
    It speaks about other queries from the same source, not about other training seeds.
    """
    N = check_shape(values, "N", "values")["N"]
    if N == 0 or not 0 < level < 1 or samples < 1:
        raise ValueError(
            "values must not be empty, level lie between 0 and 1 and samples be at "
            f"least 1, got {N} values, {level} and {samples}."
        )
    if groups is None:
        groups = torch.arange(N)
    check_shape(groups, "N", "groups", N=N)
    _, group = groups.unique(return_inverse=True)
    G = int(group.max()) + 1
    sums = torch.zeros(G, dtype=torch.float64).index_add(0, group, values.double())
    counts = torch.bincount(group, minlength=G).double()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(G, (samples, G), generator=generator)
    means = sums[drawn].sum(dim=1) / counts[drawn].sum(dim=1)
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return low.item(), high.item()
