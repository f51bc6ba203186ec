"""The mean of a few scores, weighted by the softmax of these scores themselves.

    Σ_i x_i softmax_i(x / 0.01), with a square matrix W that mixes the weights
    Σ_i x_i (softmax(x / 0.01) W)_i.

The low temperature makes it almost a maximum. X-CLIP, EERCF and GLCCL compute their
scores by such means; W is learned and starts as the identity.
"""

import torch
from torch import Tensor

SOFTMAX_TEMPERATURE = 0.01


def mixed_weighted_mean(
    scores: Tensor,
    mix: Tensor | None = None,
    mask: Tensor | None = None,
    temperature: float = SOFTMAX_TEMPERATURE,
) -> Tensor:
    """Scores (..., N) averaged with their softmax as weights: (...).

    ``mix``: (N, N), W, by which the weights are mixed. ``mask``: (..., N), broadcast,
    True = real; the others have weight 0, also where the mixing gives them some.
    """
    if mask is None:
        weights = (scores / temperature).softmax(-1)
    else:
        # One pass over the scores; a row that is all masked has equal weights, not NaN.
        hidden = torch.zeros_like(mask, dtype=scores.dtype)
        hidden = hidden.masked_fill(~mask, torch.finfo(scores.dtype).min / 2)
        weights = torch.add(hidden, scores, alpha=1 / temperature).softmax(-1)
    if mix is not None:
        weights = weights @ mix if mask is None else weights @ mix * mask
    return (scores * weights).sum(-1)
