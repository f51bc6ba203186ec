"""DRL: weighted token-wise interaction (WTI) and channel decorrelation (CDCR).

With w the unit words and f the unit frames, and the weights α, β of two networks D → D → 1
of the raw words and frames, softmaxed over the real ones,

    z_ablf = w_al · f_bf,   S = ½ (Σ_l α_al max_f z + Σ_f β_bf max_l z).

CDCR acts on own pairs: each real word with its best own frame, each real frame with its
best own word; all four lists standardised per channel over the batch (ẑ, ẑ', y, y'):

    c = ½ ((1/A) Σ_al α ẑ ẑ'ᵀ + (1/B) Σ_bf β y y'ᵀ),
    λ (α₁ Σ_d (c_dd − 1)² + α₂ Σ_{d≠e} c_de²),

and α₂ = 0 in every released command. Source: the released code of DRL (Wang et al. 2022).
There a padded word or frame has z = 0, so it is the maximum where all real ones are
negative (``mask_padding=False``); here it is never a maximum.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from glscl.backbone import Backbone
from glscl.config import DRLConfig
from glscl.heads.base import Head, small_linear
from glscl.losses import standardise
from glscl.retriever import TextFeatures


class DRLText(NamedTuple):
    """``weights``: (A, L), α; ``tokens``: (A, L, D), unit; ``mask``: (A, L)."""

    weights: Tensor
    tokens: Tensor
    mask: Tensor


class DRLVideo(NamedTuple):
    """``frames``: (B, F, D), unit; ``weights``: (B, F), β; ``mask``: (B, F)."""

    frames: Tensor
    weights: Tensor
    mask: Tensor


class DRL(Head):
    """Best frame of a word, best word of a frame, both weighted."""

    method = "drl"
    starts_at_random = True
    word_fields = ("weights", "tokens", "mask")

    def __init__(self, backbone: Backbone, config: DRLConfig):
        super().__init__(backbone, config)
        self.text_weight = weight_network(backbone.embed_dim)
        self.video_weight = weight_network(backbone.embed_dim)

    def text_state(self, text: TextFeatures, fold: bool = False) -> DRLText:
        weights = _weights(self.text_weight, text.tokens, text.mask)
        return DRLText(weights, normalize(text.tokens, dim=-1), text.mask)

    def video_state(
        self, frames: Tensor, clip_frames: Tensor, mask: Tensor, fold: bool = False
    ) -> DRLVideo:
        weights = _weights(self.video_weight, frames, mask)
        return DRLVideo(normalize(frames, dim=-1), weights, mask)

    def scores(self, text: DRLText, video: DRLVideo) -> Tensor:
        z = torch.einsum("ald,bfd->ablf", text.tokens, video.frames)
        words, frames = text.mask[:, None, :, None], video.mask[:, None]
        best_frame, best_word = _hidden(z, frames), _hidden(z, words)
        if not self.config.mask_padding:
            best_frame = best_word = z * words * frames
        of_words = (best_frame.amax(3) * text.weights[:, None]).sum(-1)
        of_frames = (best_word.amax(2) * video.weights).sum(-1)
        return (of_words + of_frames) / 2

    def coarse_text(self, text: DRLText) -> Tensor:
        return torch.einsum("al,ald->ad", text.weights, text.tokens)

    def coarse_video(self, video: DRLVideo) -> Tensor:
        return torch.einsum("bf,bfd->bd", video.weights, video.frames)

    def constraint(self, text: DRLText, video: DRLVideo) -> Tensor:
        """CDCR of a batch of pairs."""
        config = self.config
        if not config.cdcr_weight:
            return text.tokens.new_zeros(())
        z = torch.einsum("ald,afd->alf", text.tokens, video.frames)
        words, frames = text.mask[:, :, None], video.mask[:, None]
        if config.mask_padding:
            frame, word = _hidden(z, frames), _hidden(z, words)
        else:
            frame = word = z * words * frames
        partner_frames = _rows(video.frames, frame.argmax(2))  # (A, L, D)
        partner_words = _rows(text.tokens, word.argmax(1))  # (A, F, D)
        c = correlation(text.tokens, partner_frames, text.weights, text.mask)
        c = c + correlation(video.frames, partner_words, video.weights, video.mask)
        diagonal = c.diagonal() / 2
        off = (c / 2).square().sum() - diagonal.square().sum()
        on = (diagonal - 1).square().sum()
        return config.cdcr_weight * (config.cdcr_on * on + config.cdcr_off * off)


def weight_network(dim: int) -> nn.Sequential:
    """D → D → 1, of small weights, see ``small_linear``."""
    return nn.Sequential(small_linear(dim, dim), nn.ReLU(), small_linear(dim, 1))


def correlation(x: Tensor, y: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """(1/A) Σ_al weights x̂ ŷᵀ over the real rows of x, y (A, N, D): (D, D)."""
    real = mask.flatten()
    rows = [standardise(part.flatten(0, 1)[real]) for part in (x, y)]
    return (rows[0] * weights.flatten()[real][:, None]).T @ rows[1] / len(mask)


def _weights(network: nn.Module, rows: Tensor, mask: Tensor) -> Tensor:
    weights = network(rows).squeeze(-1)
    return weights.masked_fill(~mask, float("-inf")).softmax(-1)


def _hidden(z: Tensor, mask: Tensor) -> Tensor:
    return z.masked_fill(~mask, float("-inf"))


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Row index_an of x_a for each n: (A, M, D) and (A, N) to (A, N, D)."""
    return x.take_along_dim(index[..., None], dim=1)
