"""EERCF: one coarse score for all, fine scores of frames and patches for the best.

With t = unit(captions), f = unit(CLIP's frames), u = unit(frames after the frame
transformer), p = unit(patches), x_abf = t_a · f_bf and y_abp = t_a · p_bp,

    video          v_ab = (t M)_a · V_b,  V = unit(mean over the frames of u)
    frame, weak    Σ_f x_abf (softmax_f(x / .01) W)_f
    frame, strong  t_a · unit(Σ_f softmax_f(x / .1) u_bf), the text-gated block (TIB)
    patch, weak    Σ_p y_abp softmax_p(y / .01)

M (D, D) and W (F, F) are learnt and start as the identity. In training the strong score
gates every video by its own caption alone, and the gate gets no gradient; in evaluation
each caption gates each video. A strong patch score, which the release computes with the
weight 0 in its loss and does not use in reranking, is left out.

Source: the released code of EERCF (Tian et al. 2024). That code masks padding in the
frame transformer and in V alone, which is what ``mask_padding=False`` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from glscl.backbone import Backbone
from glscl.config import EERCFConfig
from glscl.losses import info_nce, pearson_constraint
from glscl.retriever import Retriever, map_features
from glscl.util.means import mixed_weighted_mean, softmax_weighted_mean
from glscl.util.numeric import autocast_disabled, check_finite, to_common_float
from glscl.util.rerank import Recall, rerank
from glscl.util.shapes import check_shape
from glscl.weights import authors_name

# Elements of the largest intermediate tensor of a chunk of videos.
CHUNK_ELEMENTS = 2_000_000


class EERCFText(NamedTuple):
    """``captions``: (A, D), t, unit norm; ``mapped``: (A, D), t M."""

    captions: Tensor
    mapped: Tensor


class EERCFVideo(NamedTuple):
    """Videos, encoded; all of unit norm.

    ``videos``: (B, D), V; ``frames``: (B, F, D), u; ``clip_frames``: (B, F, D), f;
    ``mask``: (B, F), True = real; ``patches``: (B, F P, D), or ``None`` without them.
    """

    videos: Tensor
    frames: Tensor
    clip_frames: Tensor
    mask: Tensor
    patches: Tensor | None = None


class Levels(NamedTuple):
    """Scores (A, B) by level; those of patches are ``None`` without patches."""

    video: Tensor
    frame_weak: Tensor
    frame_strong: Tensor
    patch_weak: Tensor | None = None


class EERCFLosses(NamedTuple):
    """Scalars; ``total`` is the sum of the others, which carry their weights already.

    ``pearson`` is the constraint of videos and frames together.
    """

    total: Tensor
    weak: Tensor
    strong: Tensor
    pearson: Tensor


def gates(scores: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
    """softmax_f(scores / τ) over the real frames or patches of each video.

    ``scores``: (A, B, F) or (B, F), ``mask``: (B, F), or ``None`` where all are real.
    """
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (scores / temperature).softmax(-1)


def gated(weights: Tensor, rows: Tensor) -> Tensor:
    """unit(Σ_f weights rows_bf): (A, B, D) for weights (A, B, F), (B, D) for (B, F)."""
    axes = "abf,bfd->abd" if weights.ndim == 3 else "bf,bfd->bd"
    return normalize(torch.einsum(axes, weights, rows), dim=-1)


class EERCF(Retriever):
    """Coarse-to-fine retrieval by videos, frames and patches."""

    method = "eercf"
    loss_type = EERCFLosses

    def __init__(self, backbone: Backbone, config: EERCFConfig):
        super().__init__(backbone, config)
        self.uses_patches = config.patches
        self.video_map = nn.Parameter(torch.eye(backbone.embed_dim))  # M
        self.frame_mix = nn.Parameter(torch.eye(config.max_frames))  # W

    @classmethod
    def from_authors(
        cls,
        path: str | Path,
        preset: str | None = None,
        backbone: str | None = None,
        **settings: Any,
    ) -> EERCF:
        """The model in a checkpoint of EERCF's released code; see ``GLSCL.from_authors``.

        F is read from the file, as all sizes are.
        """
        return cls._from_authors(path, (authors_name, ()), preset, backbone, settings)

    def encode_text(self, token_ids: Tensor, token_mask: Tensor) -> EERCFText:
        """Sentences of captions from ``token_ids`` and ``token_mask``, both (A, L).

        Raises ``ValueError`` for sizes that do not fit and a mask row that is all False.
        """
        (captions,) = to_common_float(self._read_text(token_ids, token_mask).captions)
        t = normalize(captions, dim=-1)
        return EERCFText(t, t @ self.video_map)

    def encode_video_features(
        self, frame_features: Tensor, frame_mask: Tensor
    ) -> EERCFVideo:
        """``encode_video`` from what ``encode_frames`` gave.

        (B, F, D), or with patches (B, F, 1 + P, D).
        """
        frames, patches = frame_features, None
        if self.uses_patches:
            check_shape(frame_features, "B F N D", "frame_features")
            frames = frame_features[:, :, 0]
            (patches,) = to_common_float(frame_features[:, :, 1:].flatten(1, 2))
            patches = normalize(patches, dim=-1)
        context, mask = self.contextualize_frames(frames, frame_mask)
        u, f = (normalize(x, dim=-1) for x in to_common_float(context, frames))
        V = torch.einsum("bfd,bf->bd", u, mask.to(u.dtype))
        return EERCFVideo(normalize(V, dim=-1), u, f, mask, patches)

    def similarity(self, text: EERCFText, video: EERCFVideo) -> Tensor:
        """The score of every pair, all levels of all of them: (A, B).

        .5 video + .8 frame weak + .2 frame strong + .2 patch weak, as the release
        reranks. Raises ``ValueError`` for sizes that do not fit and features that are
        not finite.
        """
        with autocast_disabled(video.frames):
            scores = torch.cat(
                [
                    reranking_score(self.levels(text, part))
                    for part in self._chunks(len(text.captions), video)
                ],
                dim=1,
            )
        check_finite(
            scores, captions=text.captions, frames=video.frames, videos=video.videos
        )
        return scores

    def two_stage(
        self,
        text: EERCFText,
        video: EERCFVideo,
        shortlist: int = 50,
        recall: Recall = "videos of captions",
    ) -> Tensor:
        """``similarity`` of the ``shortlist`` best pairs by the coarse score: (A, B).

        Only these are scored on frames and patches; they stand above all others, which
        keep their coarse order. ``recall``: see ``util.rerank``. Raises ``ValueError``
        for a shortlist below 1.
        """

        def score(captions: Tensor, b: int) -> Tensor:
            recalled = EERCFText(text.captions[captions], text.mapped[captions])
            levels = self.levels(recalled, select_videos(video, slice(b, b + 1)))
            return reranking_score(levels)[:, 0]

        with autocast_disabled(video.frames):
            return rerank(self.coarse(text, video), score, shortlist, recall)

    def coarse(self, text: EERCFText, video: EERCFVideo) -> Tensor:
        """The video score alone: one product, (A, B)."""
        return text.mapped @ video.videos.T

    def coarse_text(self, text: EERCFText) -> Tensor:
        """t M, whose product with V is the coarse score."""
        return text.mapped

    def coarse_video(self, video: EERCFVideo) -> Tensor:
        """V."""
        return video.videos

    def levels(self, text: EERCFText, video: EERCFVideo) -> Levels:
        """Every level of every pair, each caption gating each video."""
        t, mask, patch_mask = text.captions, *self._masks(video)
        x = torch.einsum("ad,bfd->abf", t, video.clip_frames)
        W = self.mixing_matrix(self.frame_mix, x.shape[-1], "frames")
        strong = gated(gates(x, mask, self.config.gate_temperature), video.frames)
        patch_weak = None
        if video.patches is not None:
            y = torch.einsum("ad,bpd->abp", t, video.patches)
            patch_weak = softmax_weighted_mean(y, patch_mask)
        return Levels(
            self.coarse(text, video),
            mixed_weighted_mean(x, W, mask),
            torch.einsum("ad,abd->ab", t, strong),
            patch_weak,
        )

    def frame_weights(self, text: EERCFText, video: EERCFVideo) -> Tensor:
        """The gates of the strong score."""
        x = torch.einsum("ad,bfd->abf", text.captions, video.clip_frames)
        return gates(x, self._masks(video)[0], self.config.gate_temperature)

    def loss(self, text: EERCFText, video: EERCFVideo) -> EERCFLosses:
        """The released loss of a batch of pairs: row i of both belongs together.

        .8 NCE₂(κ (.5 video + .5 frame weak + .05 patch weak)) + .2 NCE₂(κ frame strong)
        + w (Pearson of t and V + Pearson of t and the frames gated by t itself).
        """
        t, mask, patch_mask = text.captions, *self._masks(video)
        with autocast_disabled(video.frames):
            x = torch.einsum("ad,bfd->abf", t, video.clip_frames)
            W = self.mixing_matrix(self.frame_mix, x.shape[-1], "frames")
            weak = 0.5 * self.coarse(text, video)
            weak = weak + 0.5 * mixed_weighted_mean(x, W, mask)
            if video.patches is not None:
                y = torch.einsum("ad,bpd->abp", t, video.patches)
                weak = weak + 0.05 * softmax_weighted_mean(y, patch_mask)
            temperature = self.config.gate_temperature
            caption_to_video = torch.einsum("bd,bfd->bf", t, video.clip_frames).detach()
            strong = gated(gates(caption_to_video, mask, temperature), video.frames)
            weak_loss = 0.8 * info_nce(self.kappa * weak)
            strong_loss = 0.2 * info_nce(self.kappa * (t @ strong.T))
            pearson = self.config.pearson_weight * (
                pearson_constraint(t, video.videos) + pearson_constraint(t, strong)
            )
        total = weak_loss + strong_loss + pearson
        return EERCFLosses(total, weak_loss, strong_loss, pearson)

    def _masks(self, video: EERCFVideo) -> tuple[Tensor | None, Tensor | None]:
        """Masks of frames (B, F) and patches (B, F P), or ``None`` for unmasked."""
        if not self.config.mask_padding:
            return None, None
        if video.patches is None:
            return video.mask, None
        P = video.patches.shape[1] // video.mask.shape[1]
        return video.mask, video.mask.repeat_interleave(P, dim=1)

    def _chunks(self, A: int, video: EERCFVideo) -> Iterator[EERCFVideo]:
        """Parts of the videos, small enough for ``CHUNK_ELEMENTS`` with A captions."""
        rows = 0 if video.patches is None else video.patches.shape[1]
        size = max(1, CHUNK_ELEMENTS // (A * (rows + video.frames.shape[2])))
        for start in range(0, len(video.frames), size):
            yield select_videos(video, slice(start, start + size))


def select_videos(video: EERCFVideo, rows: slice) -> EERCFVideo:
    """The videos of a gallery at ``rows``."""
    return map_features(lambda x: x[rows], video)


def reranking_score(levels: Levels) -> Tensor:
    """The released weights of the levels when pairs are reranked: (A, B)."""
    score = 0.5 * levels.video + 0.8 * levels.frame_weak + 0.2 * levels.frame_strong
    if levels.patch_weak is not None:
        score = score + 0.2 * levels.patch_weak
    return score
