"""DiCoSA: cosines of C slices of the features, weighted by a network; head only.

    p_ab = Σ_f softmax_f(c_a · frames_bf / τ) frames_bf          (all features raw)
    u_abq = W₂ ReLU(W₁ [c_aq ; p_abq]),   S = Σ_q u_abq unit(c_aq) · unit(p_abq)

for slices q of d = D / C channels; one network for all of them. The weights u are no
softmax and may be negative. The constraint acts on own pairs: each slice standardised
over its channels, c_qr = (1/A) Σ_a ẑ_aq · ẑ'_ar / N, α Σ (c_qq − 1)² + β Σ_{q≠r} c_qr²,
with N = max_words in the release (``"released"``) or N = d − 1, which makes it a
correlation (``"channels"``).

The folded form: the hidden layer W₁ is applied to captions and frames once each; the
cosines come from Gram matrices of the frames.

Source: the released code of DiCoSA (Jin et al. 2023). It masks frames after the softmax,
which leaves the weights without a sum of 1 (``mask_padding=False``).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from glscl.backbone import Backbone
from glscl.config import DiCoSAConfig
from glscl.heads.base import Head, small_linear
from glscl.losses import correlation_loss, standardise
from glscl.retriever import TextFeatures
from glscl.util.numeric import masked_softmax

EPSILON = 1e-12  # the smallest length to divide by, as in ``normalize``


class DiCoSAText(NamedTuple):
    """``captions``: (A, C, d), raw; ``hidden``, folded: (A, C, 4d), their part of W₁."""

    captions: Tensor
    hidden: Tensor | None = None


class DiCoSAVideo(NamedTuple):
    """``frames``: (B, C, F, d), raw; ``mask``: (B, F), True = real.

    Folded, also ``hidden``: (B, C, F, 4d), their part of W₁, ``grams``: (B, C, F, F).
    """

    frames: Tensor
    mask: Tensor
    hidden: Tensor | None = None
    grams: Tensor | None = None


class DiCoSA(Head):
    """Slices of a sentence and of the video pooled for it."""

    method = "dicosa"
    starts_at_random = True
    always_hides_padding = True

    def __init__(self, backbone: Backbone, config: DiCoSAConfig):
        super().__init__(backbone, config)
        D, C = backbone.embed_dim, config.num_concepts
        if D % C:
            raise ValueError(f"num_concepts must divide the {D} channels, got {C}.")
        d = D // C
        self.hidden, self.weight = small_linear(2 * d, 4 * d), small_linear(4 * d, 1)

    def text_state(self, text: TextFeatures, fold: bool = False) -> DiCoSAText:
        slices = text.captions.unflatten(-1, (self.config.num_concepts, -1))
        return DiCoSAText(slices, self._text_hidden(slices) if fold else None)

    def video_state(
        self, frames: Tensor, clip_frames: Tensor, mask: Tensor, fold: bool = False
    ) -> DiCoSAVideo:
        slices = frames.unflatten(-1, (self.config.num_concepts, -1)).transpose(1, 2)
        if not fold:
            return DiCoSAVideo(slices, mask)
        own = self.hidden.weight[:, slices.shape[-1] :]
        return DiCoSAVideo(slices, mask, slices @ own.T, slices @ slices.mT)

    def scores(self, text: DiCoSAText, video: DiCoSAVideo) -> Tensor:
        if video.hidden is not None and video.grams is not None:
            return self._folded(text, video, video.hidden, video.grams)
        t = text.captions
        # The video pooled for each caption, in slices: (A, B, C, d).
        w = self.frame_weights(text, video)
        p = torch.einsum("abf,bfd->abd", w, _whole(video)).unflatten(-1, t.shape[1:])
        both = torch.cat([t[:, None].expand(p.shape), p], dim=-1)
        weight = self.weight(self.hidden(both).relu()).squeeze(-1)  # (A, B, C)
        t, p = normalize(t, dim=-1), normalize(p, dim=-1)
        return (weight * torch.einsum("acd,abcd->abc", t, p)).sum(-1)

    def coarse_text(self, text: DiCoSAText) -> Tensor:
        return normalize(text.captions, dim=-1).flatten(1)

    def coarse_video(self, video: DiCoSAVideo) -> Tensor:
        sums = torch.einsum("bcfd,bf->bcd", video.frames, video.mask.to(video.frames))
        return normalize(sums, dim=-1).flatten(1)

    def frame_weights(self, text: DiCoSAText, video: DiCoSAVideo) -> Tensor:
        scores = torch.einsum("ad,bfd->abf", text.captions.flatten(1), _whole(video))
        return self._weights(scores, video.mask)

    def _folded(
        self, text: DiCoSAText, video: DiCoSAVideo, hidden: Tensor, grams: Tensor
    ) -> Tensor:
        t, frames = text.captions, video.frames
        s = torch.einsum("acd,bcfd->bcfa", t, frames)
        w = self._weights(s.sum(1).transpose(1, 2), video.mask[:, None])
        w = w.transpose(1, 2)  # (B, F, A)
        top = torch.einsum("bcfa,bfa->bca", s, w)
        square = torch.einsum("bcfa,bfa->bca", grams @ w[:, None].expand_as(s), w)
        cosine = top * square.clamp_min(EPSILON**2).rsqrt()
        cosine = cosine / t.norm(dim=-1).clamp_min(EPSILON).T
        h = torch.einsum("bfa,bcfh->bcah", w, hidden)
        t_hidden = self._text_hidden(t) if text.hidden is None else text.hidden
        h = h + t_hidden.transpose(0, 1)
        weight = self.weight(h.relu()).squeeze(-1)  # (B, C, A)
        return (weight * cosine).sum(1).T

    def _text_hidden(self, t: Tensor) -> Tensor:
        return t @ self.hidden.weight[:, : t.shape[-1]].T + self.hidden.bias

    def _weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Weights of the frames (last axis) for inner products with captions."""
        scores = scores / self.config.temperature
        weights = masked_softmax(scores, self.padding_mask(mask))
        return weights if self.config.mask_padding else weights * mask

    def constraint(self, text: DiCoSAText, video: DiCoSAVideo) -> Tensor:
        """The slices of own pairs: alike within a slice, different across slices."""
        t, config = text.captions, self.config
        scores = torch.einsum("aqd,aqfd->af", t, video.frames)
        w = self._weights(scores, video.mask)
        pooled = torch.einsum("af,aqfd->aqd", w, video.frames)
        d = t.shape[-1]
        N = config.max_words if config.concept_normalise == "released" else d - 1
        x, y = standardise(t, -1), standardise(pooled, -1)
        c = torch.einsum("aqd,ard->qr", x, y) / (len(t) * N)
        return correlation_loss(c, config.concept_on, config.concept_off)


def _whole(video: DiCoSAVideo) -> Tensor:
    """The frames with their slices joined again: (B, F, D)."""
    return video.frames.transpose(1, 2).flatten(2)
