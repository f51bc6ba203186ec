"""GLCCL: the sentence and every word choose the frames they are compared with.

The global-local interaction module (GLIM) is GIM's pooling, asked by the sentence s_a
and by each word w_al of a caption (features not normalised, τ = 5):

    G(x, v_b) = Σ_f softmax_f(x · v_bf / τ) v_bf,
    video_ab = unit(G(s_a, v_b)),   frame_abl = unit(G(w_al, v_b)).

From there on s and w are unit, and with a sharp self-weighted mean R(x; W) = Σ_l x_l
(softmax_l(x / .01) W)_l, see ``means``, four scores are averaged:

    video-sentence  (s M_g)_a · video_ab
    video-word      R_l(video_ab · w_al; W_1)
    sentence-frame  R_l(s_a · frame_abl; W_2)
    frame-word      z_ablu = (w M_l)_al · frame_abu, words l and frames u, both ways:
                    ½ (R_u(R_l(z; W_3); W_4) + R_l(R_u(z; W_5); W_6))

M_g, M_l (D, D) and W (L, L) are learnt and start as the identity, so the first step is
without parameters.

All four are inner products with pooled videos, so they are weighted sums of inner
products with frames over a length √(wᵀ G w): the folded form here, in which no
(A, B, L, D) tensor is ever built. ``level_scores(method="direct")`` is the equations as
they stand.

Source: the released code of GLCCL (Jing et al. 2025). It masks neither words nor frames,
which is what ``mask_padding=False`` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from glscl.backbone import Backbone
from glscl.config import GLCCLConfig
from glscl.data.pairs import trim
from glscl.losses import contrastive_score_consistency, info_nce
from glscl.retriever import Retriever, TextFeatures, VideoFeatures
from glscl.util import parallel
from glscl.util.means import mixed_mean
from glscl.util.numeric import full, full_precision, refuse_non_finite

LEVELS = ("video-sentence", "video-word", "sentence-frame", "frame-word")
# Numbers that a chunk of videos may hold for each intermediate tensor.
CHUNK_NUMBERS = 1_000_000
GROUP = 16  # captions of like length that are scored together


class GLCCLLosses(NamedTuple):
    """Scalars; ``total`` is the sum of the others, which carry their weights already."""

    total: Tensor
    info_nce: Tensor
    csc: Tensor


class Products(NamedTuple):
    """Every inner product that the four scores are made of.

    ``video_sentence``: (A, B), ``video_word``, ``sentence_frame``: (A, B, L),
    ``frame_word``: (A, B, L, L), z, words before frames.
    """

    video_sentence: Tensor
    video_word: Tensor
    sentence_frame: Tensor
    frame_word: Tensor


def glim_weights(
    queries: Tensor, frames: Tensor, mask: Tensor | None, temperature: float
) -> Tensor:
    """softmax_f(queries_al · frames_bf / τ) over the real frames: (A, B, L, F).

    ``queries``: (A, L, D), words, or a sentence as L = 1; ``frames``: (B, F, D);
    ``mask``: (B, F), or ``None`` where all frames are real.
    """
    scores = torch.einsum("ald,bfd->ablf", queries, frames) / temperature
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], float("-inf"))
    return scores.softmax(-1)


class GLCCL(Retriever):
    """Retrieval by four scores of text-guided videos and frames."""

    method = "glccl"
    loss_type = GLCCLLosses

    def __init__(self, backbone: Backbone, config: GLCCLConfig):
        super().__init__(backbone, config)
        D, L = backbone.embed_dim, config.max_words
        self.sentence_map = nn.Parameter(torch.eye(D))  # M_g
        self.word_map = nn.Parameter(torch.eye(D))  # M_l
        self.mixes = nn.ParameterList(torch.eye(L) for _ in range(6))  # W_1 … W_6

    def encode_text(self, token_ids: Tensor, token_mask: Tensor) -> TextFeatures:
        """Features of captions from their ``token_ids`` and ``token_mask``, both (A, L).

        Raises ``ValueError`` for sizes that do not fit and a mask row that is all False.
        """
        return self._read_text(token_ids, token_mask, self.config.mask_padding)

    def encode_video_features(
        self, frame_features: Tensor, frame_mask: Tensor
    ) -> VideoFeatures:
        """``encode_video`` from what ``encode_frames`` gave: (B, F, D)."""
        return VideoFeatures(*self._see_frames(frame_features, frame_mask))

    def for_loss(
        self, text: TextFeatures, video: VideoFeatures
    ) -> tuple[TextFeatures, VideoFeatures]:
        """The features of a batch, with as many words on every process."""
        more = parallel.largest(text.mask.shape[1]) - text.mask.shape[1]
        tokens, mask = pad(text.tokens, (0, 0, 0, more)), pad(text.mask, (0, more))
        return text._replace(tokens=tokens, mask=mask), video

    def similarity(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """The mean of the four scores of every caption and video: (A, B).

        Raises ``ValueError`` for sizes that do not fit and features that are not finite.
        """
        return self.level_scores(text, video).mean(dim=0)

    def level_scores(
        self,
        text: TextFeatures,
        video: VideoFeatures,
        method: Literal["folded", "direct"] = "folded",
    ) -> Tensor:
        """The four scores in the order of ``LEVELS``: (4, A, B).

        ``"folded"`` and ``"direct"`` are both exact; the second builds (A, B, L, D).
        """
        if method not in ("folded", "direct"):
            raise ValueError(f"method must be 'folded' or 'direct', got {method!r}.")
        products = self._folded if method == "folded" else self._direct
        masked = self.config.mask_padding
        with full_precision(video.frames):
            captions, tokens, frames = full(text.captions, text.tokens, video.frames)
            found = []
            groups = self._groups(text.mask)
            for rows in groups:
                words, mask = tokens[rows], text.mask[rows]
                if masked:
                    words, mask = trim(words, mask)
                parts = [
                    self._levels(
                        products(
                            captions[rows],
                            words,
                            frames[part],
                            video.mask[part] if masked else None,
                        ),
                        mask if masked else None,
                    )
                    for part in self._chunks(words, frames)
                ]
                found.append(torch.cat(parts, dim=2))
            scores = torch.cat(found, dim=1)[:, torch.cat(groups).argsort()]
        refuse_non_finite(scores, captions=captions, tokens=tokens, frames=frames)
        return scores

    def loss(self, text: TextFeatures, video: VideoFeatures) -> GLCCLLosses:
        """InfoNCE + w CSC of a batch of pairs: row i of both belongs together."""
        levels = self.level_scores(text, video)
        contrastive = info_nce(self.kappa * levels.mean(dim=0))
        csc = self.config.csc_weight * contrastive_score_consistency(levels)
        return GLCCLLosses(contrastive + csc, contrastive, csc)

    def _folded(
        self, captions: Tensor, tokens: Tensor, frames: Tensor, real: Tensor | None
    ) -> Products:
        """From inner products with frames; the sentence goes first among the words."""
        asking = torch.cat([captions[:, None], tokens], dim=1)  # (A, 1 + L, D)
        s, w = normalize(captions, dim=-1), normalize(tokens, dim=-1)
        unit = torch.cat([s[:, None], w], dim=1)
        mapped = torch.cat([(s @ self.sentence_map)[:, None], w @ self.word_map], dim=1)
        weights = glim_weights(asking, frames, real, self.config.temperature)
        G = frames @ frames.transpose(1, 2)  # (B, F, F)
        square = (torch.einsum("ablf,bfg->ablg", weights, G) * weights).sum(-1)
        # A weight over the pooled length: inner products with unit(G(x, v)) from here.
        weights = weights / square.clamp_min(1e-12).sqrt()[..., None]
        plain = torch.einsum("ald,bfd->ablf", unit, frames)
        after = torch.einsum("ald,bfd->ablf", mapped, frames)
        video, frame = weights[:, :, 0], weights[:, :, 1:]
        return Products(
            torch.einsum("abf,abf->ab", video, after[:, :, 0]),
            torch.einsum("abf,ablf->abl", video, plain[:, :, 1:]),
            torch.einsum("ablf,abf->abl", frame, plain[:, :, 0]),
            torch.einsum("ablf,abuf->ablu", after[:, :, 1:], frame),
        )

    def _direct(
        self, captions: Tensor, tokens: Tensor, frames: Tensor, real: Tensor | None
    ) -> Products:
        """From the pooled videos and frames themselves."""

        def pooled(queries: Tensor) -> Tensor:
            weights = glim_weights(queries, frames, real, self.config.temperature)
            return normalize(torch.einsum("ablf,bfd->abld", weights, frames), dim=-1)

        video = pooled(captions[:, None])[:, :, 0]  # (A, B, D)
        frame = pooled(tokens)  # (A, B, L, D)
        s, w = normalize(captions, dim=-1), normalize(tokens, dim=-1)
        return Products(
            torch.einsum("ad,abd->ab", s @ self.sentence_map, video),
            torch.einsum("ald,abd->abl", w, video),
            torch.einsum("ad,abld->abl", s, frame),
            torch.einsum("ald,abud->ablu", w @ self.word_map, frame),
        )

    def _levels(self, products: Products, mask: Tensor | None) -> Tensor:
        """Self-weighted means over words and word-conditioned frames: (4, A, b)."""
        W = self._mixes(products.video_word.shape[-1])
        row = None if mask is None else mask[:, None]  # (A, 1, L)
        grid = None if mask is None else mask[:, None, None]  # (A, 1, 1, L)
        z = products.frame_word
        by_words = mixed_mean(mixed_mean(z.transpose(2, 3), W[2], grid), W[3], row)
        by_frames = mixed_mean(mixed_mean(z, W[4], grid), W[5], row)
        return torch.stack(
            [
                products.video_sentence,
                mixed_mean(products.video_word, W[0], row),
                mixed_mean(products.sentence_frame, W[1], row),
                (by_words + by_frames) / 2,
            ]
        )

    def _mixes(self, L: int) -> list[Tensor]:
        """The six W for L words: all of them, or where padding is masked a corner."""
        N = len(self.mixes[0])
        if L > N or (L < N and not self.config.mask_padding):
            expected = f"at most {N}" if self.config.mask_padding else f"{N}"
            raise ValueError(
                f"tokens: axis 1 (L) must have {expected} words, the size of the mixing "
                f"matrices, got {L}."
            )
        return [W[:L, :L] for W in self.mixes]

    def _groups(self, mask: Tensor) -> list[Tensor]:
        """Rows of captions of like length, whose padding is then left out: the work
        grows with the square of the words."""
        if not self.config.mask_padding:
            return [torch.arange(len(mask), device=mask.device)]
        return list(mask.sum(dim=1).argsort(stable=True).split(GROUP))

    def _chunks(self, tokens: Tensor, frames: Tensor) -> Iterator[slice]:
        """A few videos at a time."""
        A, L, _ = tokens.shape
        size = max(1, CHUNK_NUMBERS // (A * L * (L + frames.shape[1])))
        for start in range(0, len(frames), size):
            yield slice(start, start + size)
