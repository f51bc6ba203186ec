"""Scores that weigh themselves: the mean of a few scores by their own sharp softmax.

    Σ_i x_i softmax_i(x / 0.01), with a square matrix W that mixes the weights
    Σ_i x_i (softmax(x / 0.01) W)_i.

Between a mean and a maximum, very near the maximum. X-CLIP, TS2-Net, EERCF and GLCCL
all end in such means; W is learnt and starts as the identity.
"""

import torch
from torch import Tensor

SHARP = 0.01


def own_mean(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scores (..., N) averaged with their own softmax as weights: (...).

    ``mask``: (..., N), broadcast, True = real; others weigh nothing.
    """
    return (scores * _weights(scores, mask)).sum(-1)


def mixed_mean(scores: Tensor, mix: Tensor, mask: Tensor | None = None) -> Tensor:
    """``own_mean`` with its weights mixed by ``mix`` (N, N) first.

    Mixing may give weight to what is masked, which is taken away again.
    """
    weights = _weights(scores, mask) @ mix
    if mask is not None:
        weights = weights * mask
    return (scores * weights).sum(-1)


def _weights(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return (scores / SHARP).softmax(-1)
    # One pass over the scores; where a row has nothing real it is even, not NaN.
    hidden = torch.zeros_like(mask, dtype=scores.dtype)
    hidden = hidden.masked_fill(~mask, torch.finfo(scores.dtype).min / 2)
    return torch.add(hidden, scores, alpha=1 / SHARP).softmax(-1)
