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
from glscl.losses import correlation_loss, standardise
from glscl.retriever import TextFeatures
from glscl.util.numeric import masked_softmax


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
        D = backbone.embed_dim  # small weights, see ``small_linear``
        self.text_weight, self.video_weight = (
            nn.Sequential(small_linear(D, D), nn.ReLU(), small_linear(D, 1))
            for _ in range(2)
        )

    def text_state(self, text: TextFeatures, fold: bool = False) -> DRLText:
        weights = masked_softmax(self.text_weight(text.tokens).squeeze(-1), text.mask)
        return DRLText(weights, normalize(text.tokens, dim=-1), text.mask)

    def video_state(
        self, frames: Tensor, clip_frames: Tensor, mask: Tensor, fold: bool = False
    ) -> DRLVideo:
        weights = masked_softmax(self.video_weight(frames).squeeze(-1), mask)
        return DRLVideo(normalize(frames, dim=-1), weights, mask)

    def scores(self, text: DRLText, video: DRLVideo) -> Tensor:
        z = torch.einsum("ald,bfd->ablf", text.tokens, video.frames)
        words, frames = text.mask[:, None, :, None], video.mask[:, None]
        to_frame, to_word = self._real(z, words, frames)
        of_words = (to_frame.amax(3) * text.weights[:, None]).sum(-1)
        of_frames = (to_word.amax(2) * video.weights).sum(-1)
        return (of_words + of_frames) / 2

    def coarse_text(self, text: DRLText) -> Tensor:
        return torch.einsum("al,ald->ad", text.weights, text.tokens)

    def coarse_video(self, video: DRLVideo) -> Tensor:
        return torch.einsum("bf,bfd->bd", video.weights, video.frames)

    def _real(self, z: Tensor, words: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """z for maxima over frames and z for maxima over words, padding apart."""
        if not self.config.mask_padding:
            return (z * words * frames,) * 2
        lowest = float("-inf")
        return z.masked_fill(~frames, lowest), z.masked_fill(~words, lowest)

    def constraint(self, text: DRLText, video: DRLVideo) -> Tensor:
        """CDCR of a batch of pairs."""
        config = self.config
        if not config.cdcr_weight:
            return text.tokens.new_zeros(())
        z = torch.einsum("ald,afd->alf", text.tokens, video.frames)
        to_frame, to_word = self._real(z, text.mask[:, :, None], video.mask[:, None])
        best_frame, best_word = to_frame.argmax(2), to_word.argmax(1)  # (A, L), (A, F)
        partner_frames = video.frames.take_along_dim(best_frame[..., None], dim=1)
        partner_words = text.tokens.take_along_dim(best_word[..., None], dim=1)
        c = correlation(text.tokens, partner_frames, text.weights, text.mask)
        c = c + correlation(video.frames, partner_words, video.weights, video.mask)
        loss = correlation_loss(c / 2, config.cdcr_on, config.cdcr_off)
        return config.cdcr_weight * loss


def correlation(x: Tensor, y: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """(1/A) Σ_al weights x̂ ŷᵀ over the real rows of x, y (A, N, D): (D, D)."""
    x, y = standardise(x[mask]), standardise(y[mask])
    return (x * weights[mask][:, None]).T @ y / len(mask)
