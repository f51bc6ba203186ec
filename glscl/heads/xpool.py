"""X-Pool: a sentence attends to the frames through projections and norms. Head only.

With c a raw sentence, x the raw frames, one attention head, and LN₁ shared by both,

    w_abf = softmax_f(q(LN₁ c_a) · k(LN₁ x_bf) / √D)
    p_ab = LN₂(out(Σ_f w v(LN₁ x_bf))),   y_ab = LN₃(p + dropout(lin p))
    S_ab = unit(c_a) · unit(y_ab)

All five matrices start as the identity. Published without a frame transformer.

The folded form: the weights sum to 1, so projecting the pooled video is pooling
projected frames. LayerNorm subtracts a mean (linear: done to the frames) and divides by
a length, a quadratic form of the weights. So y, times the σ₂ of LN₃, is c · U with a
table U (F + 2, D) per video: the F folded frames, the folded bias of ``lin``, the last
bias; and coefficients c = (w / σ₁, 1, σ₂).

Source: the released code of X-Pool (Gorti et al. 2022), which masks nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from glscl.backbone import Backbone
from glscl.config import XPoolConfig
from glscl.heads.base import Head
from glscl.retriever import TextFeatures
from glscl.util.numeric import masked_softmax


class XPoolText(NamedTuple):
    """``captions``: (A, D), unit; ``queries``: (A, D), over √D.

    ``fixed``: (A, 2), folded: products with the last two rows of every table.
    """

    captions: Tensor
    queries: Tensor
    fixed: Tensor | None = None


class XPoolVideo(NamedTuple):
    """``frames``: (B, F, D), the keys; ``mask``: (B, F); ``values``: (B, F, D)."""

    frames: Tensor
    mask: Tensor
    values: Tensor


class XPoolTables(NamedTuple):
    """A video for the folded form, with the keys and mask of ``XPoolVideo``.

    ``table``: (B, F + 2, D), U; Gram matrices of the frames before (``gram_z``) and
    after (``gram_x``, with the bias) ``linear``, and of the table.
    """

    frames: Tensor
    mask: Tensor
    table: Tensor
    gram_z: Tensor
    gram_x: Tensor
    gram_table: Tensor


class XPool(Head):
    """A video pooled for every caption by cross-attention."""

    method = "xpool"

    def __init__(self, backbone: Backbone, config: XPoolConfig):
        super().__init__(backbone, config)
        D = backbone.embed_dim
        self.q, self.k, self.v, self.out, self.linear = (_identity(D) for _ in range(5))
        self.norm_in, self.norm_attention, self.norm_out = (
            nn.LayerNorm(D) for _ in range(3)
        )
        self.dropout = nn.Dropout(config.dropout)

    def text_state(self, text: TextFeatures, fold: bool = False) -> XPoolText:
        captions = normalize(text.captions, dim=-1)
        queries = self.q(self.norm_in(text.captions)) / math.sqrt(captions.shape[-1])
        return XPoolText(captions, queries, self._fixed(captions) if fold else None)

    def video_state(
        self, frames: Tensor, clip_frames: Tensor, mask: Tensor, fold: bool = False
    ) -> XPoolVideo | XPoolTables:
        frames = self.norm_in(frames)
        keys, values = self.k(frames), self.v(frames)
        if not fold:
            return XPoolVideo(keys, mask, values)
        first, last = self.norm_attention, self.norm_out
        z = _centred(self.out(values))  # (B, F, D)
        x = z * first.weight
        x = _centred(x + x @ self.linear.weight.T)
        x = torch.cat([x, self._bias().expand(len(x), 1, -1)], dim=1)  # (B, F + 1, D)
        U = torch.cat([x * last.weight, last.bias.expand(len(x), 1, -1)], dim=1)
        return XPoolTables(keys, mask, U, z @ z.mT, x @ x.mT, U @ U.mT)

    def scores(self, text: XPoolText, video: XPoolVideo | XPoolTables) -> Tensor:
        if isinstance(video, XPoolTables):
            return self._folded(text, video)
        w = self.frame_weights(text, video)
        pooled = torch.einsum("abf,bfd->abd", w, video.values)
        p = self.norm_attention(self.out(pooled))
        y = normalize(self.norm_out(p + self.dropout(self.linear(p))), dim=-1)
        return torch.einsum("ad,abd->ab", text.captions, y)

    def frame_weights(self, text: XPoolText, video: XPoolVideo | XPoolTables) -> Tensor:
        w = torch.einsum("ad,bfd->abf", text.queries, video.frames)
        return masked_softmax(w, self.padding_mask(video.mask))

    def _folded(self, text: XPoolText, video: XPoolTables) -> Tensor:
        F = video.frames.shape[1]
        w = linear(video.frames, text.queries)  # (B, F, A)
        w = masked_softmax(w, self.padding_mask(video.mask[..., None]), dim=1)
        c = self._coefficients(w, video)
        t = linear(video.table[:, :F].contiguous(), text.captions)
        fixed = self._fixed(text.captions) if text.fixed is None else text.fixed
        t = torch.cat([t, fixed.T.expand(len(t), 2, -1)], dim=1)
        return (_inner(c, t) * _quadratic(c, video.gram_table).rsqrt()).T

    def _coefficients(self, w: Tensor, video: XPoolTables) -> Tensor:
        """c (B, F + 2, A), with c · U in the direction of y, of weights w (B, F, A)."""
        D = video.frames.shape[-1]
        one = torch.ones_like(w[:, :1])
        variance = _quadratic(w, video.gram_z) / D
        w = w / (variance + self.norm_attention.eps).sqrt()[:, None]
        c = torch.cat([w, one], dim=1)  # (B, F + 1, A)
        variance = _quadratic(c, video.gram_x) / D
        sigma = (variance + self.norm_out.eps).sqrt()[:, None]
        return torch.cat([c, sigma], dim=1)

    def coarse_video(self, video: XPoolTables) -> Tensor:
        """y of equal weights, of features that were made without gradients."""
        w = video.mask.to(video.frames) / video.mask.sum(dim=1, keepdim=True)
        c = self._coefficients(w[..., None], video)
        return normalize((c * video.table).sum(dim=1), dim=-1)

    def _fixed(self, captions: Tensor) -> Tensor:
        rows = torch.stack([self._bias() * self.norm_out.weight, self.norm_out.bias])
        return captions @ rows.T

    def _bias(self) -> Tensor:
        """The folded bias (D,), a constant of the model.

        Written elementwise, so that it is counted in none of the phases.
        """
        bias = self.norm_attention.bias
        mapped = (self.linear.weight * bias).sum(-1) + self.linear.bias
        return _centred(bias + mapped)


def _inner(x: Tensor, y: Tensor) -> Tensor:
    """Σ_n x_bna y_bna for every pair: (B, A).

    Summed by a product with ones, which tools count and which writes less memory than
    the many tiny products that einsum makes of it.
    """
    ones = x.new_ones(len(x), 1, x.shape[1])
    return (ones @ (x * y)).squeeze(1)


def _quadratic(w: Tensor, G: Tensor) -> Tensor:
    """wᵀ G_b w for weights w (B, N, A) and symmetric G (B, N, N): (B, A)."""
    return _inner(w, G @ w)


def _identity(D: int) -> nn.Linear:
    linear = nn.Linear(D, D)
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)
