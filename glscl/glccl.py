"""GLCCL: the sentence and every word attend to the frames they are compared with.

The global-local interaction module (GLIM) is GIM's pooling, with the sentence s_a and
each word w_al of a caption as queries (features not normalised, τ = 5):

    G(x, v_b) = Σ_f softmax_f(x · v_bf / τ) v_bf,
    video_ab = unit(G(s_a, v_b)),   frame_abl = unit(G(w_al, v_b)).

From there on s and w are unit. With the softmax-weighted mean R(x; W) = Σ_l x_l
(softmax_l(x / .01) W)_l, see ``mixed_weighted_mean``, four scores are averaged:

    video-sentence  (s M_g)_a · video_ab
    video-word      R_l(video_ab · w_al; W_1)
    sentence-frame  R_l(s_a · frame_abl; W_2)
    frame-word      z_ablu = (w M_l)_al · frame_abu, words l and frames u, both ways:
                    ½ (R_u(R_l(z; W_3); W_4) + R_l(R_u(z; W_5); W_6))

M_g, M_l (D, D) and W (L, L) are learnt and start as the identity.

All four are inner products with pooled videos, so they are weighted sums of inner
products with frames over a length √(wᵀ G w): the folded form here, in which no
(A, B, L, D) tensor is ever built. ``level_scores(method="direct")`` computes the
equations as written above.

Source: the released code of GLCCL (Jing et al. 2025). It masks neither words nor frames,
which is what ``mask_padding=False`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from glscl.backbone import Backbone
from glscl.config import GLCCLConfig
from glscl.data.pairs import trim
from glscl.losses import contrastive_score_consistency, info_nce
from glscl.retriever import Retriever, TextFeatures, VideoFeatures, map_features
from glscl.util.numeric import (
    autocast_disabled,
    check_finite,
    masked_softmax,
    mixed_weighted_mean,
    to_common_float,
)
from glscl.util.settings import check

Method = Literal["folded", "direct"]
LEVELS = ("video-sentence", "video-word", "sentence-frame", "frame-word")
GROUP_SIZE = 16  # captions of similar length that are scored together
EPSILON = 1e-12  # the smallest length to divide by, as in ``normalize``


class GLCCLLosses(NamedTuple):
    """See ``Retriever.loss``; ``csc``: of the contrastive score consistency."""

    total: Tensor
    info_nce: Tensor
    csc: Tensor


class Queries(NamedTuple):
    """The sentence of each caption, followed by its words: what pools the frames.

    ``raw``: (A, 1 + L, D), as encoded; ``norms``: (A, 1 + L), their lengths;
    ``mapped``: (A, 1 + L, D), the unit features times M_g and M_l.
    """

    raw: Tensor
    norms: Tensor
    mapped: Tensor


#: Every inner product that the four scores are made of, in the order of ``LEVELS``:
#: (A, B), twice (A, B, L), and z (A, B, L, L), words before frames.
Products = tuple[Tensor, Tensor, Tensor, Tensor]


def glim_weights(
    queries: Tensor, frames: Tensor, mask: Tensor | None, temperature: float
) -> Tensor:
    """softmax_f(queries_al · frames_bf / τ) over the real frames: (A, B, L, F).

    ``queries``: (A, L, D), words, or a sentence as L = 1; ``frames``: (B, F, D);
    ``mask``: (B, F), or ``None`` where all frames are real.
    """
    scores = torch.einsum("ald,bfd->ablf", queries, frames)
    return masked_softmax(scores / temperature, None if mask is None else mask[:, None])


class GLCCL(Retriever):
    """Retrieval by four scores of text-guided videos and frames."""

    method = "glccl"
    word_fields = ("tokens", "mask")

    def __init__(self, backbone: Backbone, config: GLCCLConfig):
        super().__init__(backbone, config)
        D, L = backbone.embed_dim, config.max_words
        self.sentence_map = nn.Parameter(torch.eye(D))  # M_g
        self.word_map = nn.Parameter(torch.eye(D))  # M_l
        self.mixes = nn.ParameterList(torch.eye(L) for _ in range(6))  # W_1 … W_6

    def similarity(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """The mean of the four scores of every caption and video: (A, B).

        Raises ``ValueError`` for sizes that do not fit and features that are not finite.
        """
        return self.level_scores(text, video).mean(dim=0)

    def frame_weights(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """Those of the sentence."""
        mask, tau = self.padding_mask(video.mask), self.config.temperature
        return glim_weights(text.captions[:, None], video.frames, mask, tau)[:, :, 0]

    def level_scores(
        self, text: TextFeatures, video: VideoFeatures, method: Method = "folded"
    ) -> Tensor:
        """The four scores in the order of ``LEVELS``: (4, A, B).

        ``"folded"`` and ``"direct"`` are both exact; the second builds (A, B, L, D).
        """
        check(Method, method, "method")
        products = self._folded if method == "folded" else self._direct
        with autocast_disabled(video.frames):
            captions, tokens, frames = to_common_float(
                text.captions, text.tokens, video.frames
            )
            text = text._replace(captions=captions, tokens=tokens)
            video, groups = video._replace(frames=frames), self._groups(text.mask)
            parts = [map_features(lambda x, i=i: x[i], text) for i in groups]
            scored = [self._of_group(products, part, video) for part in parts]
            scores = torch.cat(scored, dim=1)[:, torch.cat(groups).argsort()]
        check_finite(scores, captions=captions, tokens=tokens, frames=frames)
        return scores

    def _of_group(
        self,
        products: Callable[..., Products],
        text: TextFeatures,
        video: VideoFeatures,
    ) -> Tensor:
        """The four scores of captions of similar length, without their padding."""
        tokens, words = text.tokens, None
        if self.config.mask_padding:
            tokens, words = trim(tokens, text.mask)
        queries = self._queries(text.captions, tokens)

        def score(part: VideoFeatures) -> Tensor:
            found = products(queries, part.frames, self.padding_mask(part.mask))
            return self._levels(found, words)

        A, L, _ = tokens.shape
        return self._by_chunks(score, video, A * L * (L + video.frames.shape[1]))

    def loss(self, text: TextFeatures, video: VideoFeatures) -> GLCCLLosses:
        """InfoNCE + w CSC of a batch of pairs: row i of both belongs together."""
        levels = self.level_scores(text, video)
        contrastive = info_nce(self.kappa * levels.mean(dim=0))
        csc = self.config.csc_weight * contrastive_score_consistency(levels)
        return GLCCLLosses(contrastive + csc, contrastive, csc)

    def _queries(self, captions: Tensor, tokens: Tensor) -> Queries:
        """What is computed once for captions (A, D) with tokens (A, L, D)."""
        raw = torch.cat([captions[:, None], tokens], dim=1)
        norms = raw.norm(dim=-1).clamp_min(EPSILON)
        unit = raw / norms[..., None]
        mapped = [unit[:, :1] @ self.sentence_map, unit[:, 1:] @ self.word_map]
        return Queries(raw, norms, torch.cat(mapped, dim=1))

    def _folded(
        self, queries: Queries, frames: Tensor, real: Tensor | None
    ) -> Products:
        """From inner products with frames (b, F, D) alone; ``real``: (b, F) or None."""
        scores = torch.einsum("ald,bfd->ablf", queries.raw, frames)
        hidden = None if real is None else real[:, None]
        weights = masked_softmax(scores / self.config.temperature, hidden)
        G = frames @ frames.transpose(1, 2)  # (b, F, F)
        Gw = torch.einsum("bfg,ablg->ablf", G, weights)
        square = torch.einsum("ablf,ablf->abl", weights, Gw)
        # A weight over the pooled length: inner products with unit(G(x, v)) from here.
        weights = weights / square.clamp_min(EPSILON).sqrt()[..., None]
        # The unit features differ from the raw ones by their length alone.
        plain = scores / queries.norms[:, None, :, None]
        mapped = torch.einsum("ald,bfd->ablf", queries.mapped, frames)
        video, frame = weights[:, :, 0], weights[:, :, 1:]
        return (
            torch.einsum("abf,abf->ab", video, mapped[:, :, 0]),
            torch.einsum("abf,ablf->abl", video, plain[:, :, 1:]),
            torch.einsum("ablf,abf->abl", frame, plain[:, :, 0]),
            torch.einsum("ablf,abuf->ablu", mapped[:, :, 1:], frame),
        )

    def _direct(
        self, queries: Queries, frames: Tensor, real: Tensor | None
    ) -> Products:
        """From the pooled videos and frames themselves; arguments as in ``_folded``."""
        weights = glim_weights(queries.raw, frames, real, self.config.temperature)
        pooled = normalize(torch.einsum("ablf,bfd->abld", weights, frames), dim=-1)
        video, frame = pooled[:, :, 0], pooled[:, :, 1:]  # (A, b, D), (A, b, L, D)
        unit = queries.raw / queries.norms[..., None]
        return (
            torch.einsum("ad,abd->ab", queries.mapped[:, 0], video),
            torch.einsum("ald,abd->abl", unit[:, 1:], video),
            torch.einsum("ad,abld->abl", unit[:, 0], frame),
            torch.einsum("ald,abud->ablu", queries.mapped[:, 1:], frame),
        )

    def _levels(self, products: Products, mask: Tensor | None) -> Tensor:
        """Softmax-weighted means over words and word-conditioned frames: (4, A, b)."""
        video_sentence, video_word, sentence_frame, z = products
        L = z.shape[-1]
        W = [self.mixing_matrix(mix, L, "words") for mix in self.mixes]
        row = None if mask is None else mask[:, None]  # (A, 1, L)
        grid = None if mask is None else mask[:, None, None]  # (A, 1, 1, L)
        by_words = mixed_weighted_mean(
            mixed_weighted_mean(z.transpose(2, 3), W[2], grid), W[3], row
        )
        by_frames = mixed_weighted_mean(mixed_weighted_mean(z, W[4], grid), W[5], row)
        words = mixed_weighted_mean(video_word, W[0], row)
        frames = mixed_weighted_mean(sentence_frame, W[1], row)
        return torch.stack([video_sentence, words, frames, (by_words + by_frames) / 2])

    def _groups(self, mask: Tensor) -> list[Tensor]:
        """Rows of captions of similar length: the work grows with L², without padding."""
        if not self.config.mask_padding:
            return [torch.arange(len(mask), device=mask.device)]
        return list(mask.sum(dim=1).argsort(stable=True).split(GROUP_SIZE))
