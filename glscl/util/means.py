"""The mean of a few scores, weighted by the softmax of these scores themselves.

    Σ_i x_i softmax_i(x / 0.01), with a square matrix W that mixes the weights
    Σ_i x_i (softmax(x / 0.01) W)_i.

The low temperature makes it almost a maximum. X-CLIP, EERCF and GLCCL compute their
scores by such means; W is learned and starts as the identity.
"""

import torch
from torch import Tensor

SOFTMAX_TEMPERATURE = 0.01


def softmax_weighted_mean(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scores (..., N) averaged with their softmax as weights: (...).

    ``mask``: (..., N), broadcast, True = real; the others have weight 0.
    """
    return (scores * _weights(scores, mask, SOFTMAX_TEMPERATURE)).sum(-1)


def mixed_weighted_mean(
    scores: Tensor,
    mix: Tensor,
    mask: Tensor | None = None,
    temperature: float = SOFTMAX_TEMPERATURE,
) -> Tensor:
    """``softmax_weighted_mean`` with its weights mixed by ``mix`` (N, N) first.

    Masked scores that get weight by the mixing are set to weight 0 again.
    """
    weights = _weights(scores, mask, temperature) @ mix
    if mask is not None:
        weights = weights * mask
    return (scores * weights).sum(-1)


def _weights(scores: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
    if mask is None:
        return (scores / temperature).softmax(-1)
    # One pass over the scores; a row that is all masked has equal weights, not NaN.
    hidden = torch.zeros_like(mask, dtype=scores.dtype)
    hidden = hidden.masked_fill(~mask, torch.finfo(scores.dtype).min / 2)
    return torch.add(hidden, scores, alpha=1 / temperature).softmax(-1)
