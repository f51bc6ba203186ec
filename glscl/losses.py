"""The losses of GLSCL and of the related methods EERCF and GLCCL, each one equation.

Concepts are unit-normalised, ``video_concepts``: (B, Q, D), ``text_concepts``:
(A, Q, D); in a training batch A = B and row i of both belongs to pair i. Everything is
computed in float32 or better, under autocast too.

Sources: the released code of GLSCL (InfoNCE, ICL, IDL), of EERCF (Pearson constraint)
and of GLCCL (contrastive score consistency).
"""

from typing import Literal

import torch
from torch import Tensor

from glscl.util.numeric import autocast_disabled, to_common_float
from glscl.util.settings import check
from glscl.util.shapes import check_shape

Normalise = Literal["released", "batch"]
Sides = Literal["video", "both"]


def info_nce(logits: Tensor) -> Tensor:
    """Contrastive loss of both directions, ``NCE₂(M) = ½ (NCE(M) + NCE(Mᵀ))``, a scalar.

    ``logits``: (A, A), κ times the similarity, pairs on the diagonal. ``NCE(M)`` is the
    mean over the rows of −log softmax at the diagonal.
    """
    check_shape(logits, "A A", "logits")
    with autocast_disabled(logits):
        (logits,) = to_common_float(logits)
        text_to_video = -logits.log_softmax(dim=1).diagonal().mean()
        video_to_text = -logits.log_softmax(dim=0).diagonal().mean()
        return (text_to_video + video_to_text) / 2


def concept_agreement(
    video_concepts: Tensor, text_concepts: Tensor, normalise: Normalise = "released"
) -> Tensor:
    """How similar each concept is within the pairs of a batch: c (Q,).

    ``c_q = (1/N) Σ_a text_concepts_aq · video_concepts_aq`` with N = Q as in the released
    code (``"released"``: c grows with the batch) or N = A (``"batch"``: a mean cosine).
    """
    sizes = check_shape(text_concepts, "A Q D", "text_concepts")
    check_shape(video_concepts, "A Q D", "video_concepts", **sizes)
    check(Normalise, normalise, "normalise")
    N = sizes["Q"] if normalise == "released" else sizes["A"]
    with autocast_disabled(text_concepts):
        text_concepts, video_concepts = to_common_float(text_concepts, video_concepts)
        return torch.einsum("aqd,aqd->q", text_concepts, video_concepts) / N


def inter_consistency(
    video_concepts: Tensor,
    text_concepts: Tensor,
    beta: float = 0.005,
    target: float = 0.75,
    normalise: Normalise = "released",
) -> Tensor:
    """ICL makes the paired concepts of both modalities more similar; a scalar.

    ``MSE(mean_b video_concepts, mean_a text_concepts) + β Σ_q (c_q − target)²`` with
    ``c`` of ``concept_agreement``. Both (A, Q, D), paired by row.
    """
    agreement = concept_agreement(video_concepts, text_concepts, normalise)
    with autocast_disabled(text_concepts):
        video, text = to_common_float(video_concepts, text_concepts)
        gap = video.mean(dim=0) - text.mean(dim=0)  # (Q, D)
        return gap.square().mean() + beta * (agreement - target).square().sum()


def intra_diversity(
    video_concepts: Tensor,
    text_concepts: Tensor | None = None,
    margin: float = 0.1,
    sides: Sides = "video",
) -> Tensor:
    """IDL makes the concepts of one item less similar; a scalar, before its weight α.

    ``2 / (Q (Q − 1)) Σ_{q≠r} [C_qr − (1 − margin)]₊``, ``C = mean_b V Vᵀ`` (Q, Q) with
    V = ``video_concepts``. ``sides="both"`` takes the mean of this and of the same term
    of ``text_concepts``, which ``"video"`` (the released code) does not use. With a
    single concept there is no pair of concepts, and the loss is 0.
    """
    check(Sides, sides, "sides")
    video = _diversity(video_concepts, margin, "video_concepts")
    if sides == "video":
        return video
    if text_concepts is None:
        raise ValueError("sides='both' needs text_concepts, got None.")
    return (video + _diversity(text_concepts, margin, "text_concepts")) / 2


def contrastive_score_consistency(scores: Tensor) -> Tensor:
    """CSC of GLCCL: levels should differ less on true pairs than on others; a scalar.

    ``scores``: (S, A, A), the S ≥ 2 (GLCCL: four) similarity matrices of one batch,
    pairs on the diagonal. With the unbiased variance over S of every entry: the mean
    over the pairs ÷ the mean over all A² entries with the pairs' set to zero.
    """
    S, A = check_shape(scores, "S A A", "scores").values()
    if S < 2 or A < 2:
        raise ValueError(
            "scores needs at least two levels and two pairs (axes 0 and 1), got shape "
            f"{tuple(scores.shape)}."
        )
    with autocast_disabled(scores):
        variance = to_common_float(scores)[0].var(dim=0)  # (A, A)
        pairs = torch.eye(A, dtype=torch.bool, device=scores.device)
        others = variance.masked_fill(pairs, 0.0)
        return variance.diagonal().mean() / others.mean()


def pearson_constraint(
    x: Tensor, y: Tensor, on_diag: float = 0.14, off_diag: float = 0.0
) -> Tensor:
    """Pearson constraint of EERCF: each channel should correlate across a pair; a scalar.

    ``x``, ``y``: (A, D), paired by row. Both are standardised over the batch (unbiased
    standard deviation), ``c = Zxᵀ Zy / A`` (D, D), and the loss is
    ``on_diag Σ_d (c_dd − 1)² + off_diag Σ_{d≠e} c_de²``. A channel that is constant in
    the batch counts as uncorrelated. Raises ``ValueError`` for fewer than two pairs.
    """
    with autocast_disabled(x):
        diagonal = channel_correlation(x, y)
        loss = on_diag * (diagonal - 1).square().sum()
        if off_diag:
            zx, zy = (standardise(z) for z in to_common_float(x, y))
            c = zx.T @ zy / len(x)  # (D, D)
            loss = loss + off_diag * (c.square().sum() - diagonal.square().sum())
        return loss


def correlation_loss(c: Tensor, on_diag: float, off_diag: float) -> Tensor:
    """``on_diag Σ_d (c_dd − 1)² + off_diag Σ_{d≠e} c_de²`` of ``c`` (D, D), a scalar."""
    diagonal = c.diagonal()
    off = c.square().sum() - diagonal.square().sum()
    return on_diag * (diagonal - 1).square().sum() + off_diag * off


def channel_correlation(x: Tensor, y: Tensor) -> Tensor:
    """How much each channel correlates across pairs: the c_dd of the constraint, (D,).

    ``x``, ``y``: (A, D), paired by row. Standardised by the unbiased standard
    deviation and divided by A, so at most 1 − 1/A. Raises ``ValueError`` for fewer than
    two pairs.
    """
    A, D = check_shape(x, "A D", "x").values()
    check_shape(y, "A D", "y", A=A, D=D)
    if A < 2:
        raise ValueError(f"x needs at least two pairs (axis 0) to correlate, got {A}.")
    with autocast_disabled(x):
        zx, zy = (standardise(z) for z in to_common_float(x, y))
        return (zx * zy).sum(dim=0) / A


def _diversity(concepts: Tensor, margin: float, name: str) -> Tensor:
    B, Q, _ = check_shape(concepts, "B Q D", name).values()
    with autocast_disabled(concepts):
        (concepts,) = to_common_float(concepts)
        # C_qr = (1/B) Σ_b concepts_bq · concepts_br
        C = torch.einsum("bqd,brd->qr", concepts, concepts) / B
        hinge = (C - (1 - margin)).clamp_min(0)
        same = torch.eye(Q, dtype=torch.bool, device=C.device)
        return 2 * hinge.masked_fill(same, 0.0).sum() / max(1, Q * (Q - 1))


def standardise(x: Tensor, dim: int = 0) -> Tensor:
    """``x`` with mean 0 and unbiased variance 1 along ``dim``; 0 where it is constant."""
    variance = x.var(dim=dim, keepdim=True)
    # sqrt has no finite gradient at 0, hence the replacement before it.
    scale = variance.where(variance > 0, 1.0).sqrt()
    return (x - x.mean(dim=dim, keepdim=True)) / scale
