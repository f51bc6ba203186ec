"""The schedule of GLSCL's released evaluation, in our own code, as a baseline.

The similarity matrix is filled tile by tile, 16 captions by 16 videos. Every tile runs
the LIM decoder again for its captions and its videos, pools the frames for every pair,
and feeds each pair's caption and pooled video to an MLP whose output nothing uses.
Padding is not masked in the LIM. Source: the released evaluation loop.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from book.experiments.formulas import Sizes, decoder_macs, head_macs
from glscl.lim import LocalInteraction

TILE = 16


def unused_mlp(dim: int) -> nn.Module:
    """The network that is evaluated for every pair and whose output is not used."""
    return nn.Sequential(nn.Linear(2 * dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, 1))


@torch.no_grad()
def released_scores(
    captions: Tensor,
    tokens: Tensor,
    frames: Tensor,
    lim: LocalInteraction,
    mlp: nn.Module | None,
    temperature: float = 3.0,
    local_weight: float = 0.5,
) -> Tensor:
    """The similarity (A, B) of captions (A, D), tokens (A, L, D), frames (B, F, D)."""
    rows = []
    for t, w in zip(captions.split(TILE), tokens.split(TILE), strict=True):
        row = []
        for f in frames.split(TILE):
            local = _local(lim, w, f)
            row.append(_global(t, f, mlp, temperature) + local_weight * local)
        rows.append(torch.cat(row, dim=1))
    return torch.cat(rows)


def _global(t: Tensor, f: Tensor, mlp: nn.Module | None, temperature: float) -> Tensor:
    weights = torch.einsum("ad,bfd->abf", t, f)
    weights = torch.softmax(weights / temperature, dim=-1)
    pooled = torch.einsum("abf,bfd->abd", weights, f)
    if mlp is not None:
        mlp(torch.cat([t[:, None].expand(pooled.shape), pooled], dim=-1))
    t = t / t.norm(dim=-1, keepdim=True)
    pooled = pooled / pooled.norm(dim=-1, keepdim=True)
    return torch.einsum("ad,abd->ab", t, pooled)


def _local(lim: LocalInteraction, tokens: Tensor, frames: Tensor) -> Tensor:
    concepts = []
    for x in (tokens, frames):
        decoded = lim.decoder(lim.queries.expand(len(x), -1, -1), x)
        concepts.append(decoded / decoded.norm(dim=-1, keepdim=True))
    text, video = concepts
    products = text.permute(1, 0, 2) @ video.permute(1, 2, 0)  # (Q, a, b)
    return products.sum(0) / len(products)


def released_macs(N: int, sizes: Sizes, mlp: bool) -> int:
    """MACs of the schedule for N captions × N videos."""
    decoded = decoder_macs(sizes.L, sizes) + decoder_macs(sizes.F, sizes)
    pair = head_macs(sizes)["GLSCL"].pair
    pair += 8 * sizes.D**2 + 4 * sizes.D if mlp else 0
    return math.ceil(N / TILE) * N * decoded + N**2 * pair
