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

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from glscl.backbone import Backbone
from glscl.config import EERCFConfig
from glscl.losses import info_nce, pearson_constraint
from glscl.retriever import Retriever, map_features
from glscl.util.numeric import (
    autocast_disabled,
    check_finite,
    masked_softmax,
    mixed_weighted_mean,
    to_common_float,
)
from glscl.util.settings import check
from glscl.util.shapes import check_shape

#: What has a shortlist. For text to video search, every caption recalls videos. The
#: release reads the same scores by columns for video to text, which ranks the captions
#: that recalled a video; ``"captions of videos"`` gives every video a shortlist.
Recall = Literal["videos of captions", "captions of videos"]


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
    """See ``Retriever.loss``; ``pearson``: the constraint of videos and of frames."""

    total: Tensor
    weak: Tensor
    strong: Tensor
    pearson: Tensor


def gates(scores: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
    """softmax_f(scores / τ) over the real frames or patches of each video.

    ``scores``: (A, B, F) or (B, F), ``mask``: (B, F), or ``None`` where all are real.
    """
    return masked_softmax(scores / temperature, mask)


def gated(weights: Tensor, rows: Tensor) -> Tensor:
    """unit(Σ_f weights rows_bf): (A, B, D) for weights (A, B, F), (B, D) for (B, F)."""
    axes = "abf,bfd->abd" if weights.ndim == 3 else "bf,bfd->bd"
    return normalize(torch.einsum(axes, weights, rows), dim=-1)


class EERCF(Retriever):
    """Coarse-to-fine retrieval by videos, frames and patches."""

    method = "eercf"
    always_hides_padding = True
    chunk_elements = 2_000_000

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
        return cls._from_authors(path, preset, backbone, settings)

    def encode_text(self, token_ids: Tensor, token_mask: Tensor) -> EERCFText:
        (captions,) = to_common_float(
            super().encode_text(token_ids, token_mask).captions
        )
        t = normalize(captions, dim=-1)
        return EERCFText(t, t @ self.video_map)

    def encode_video_features(
        self, frame_features: Tensor, frame_mask: Tensor
    ) -> EERCFVideo:
        """``encode_video`` from (B, F, D), or with patches (B, F, 1 + P, D)."""
        frames, patches = frame_features, None
        if self.uses_patches:
            check_shape(frame_features, "B F N D", "frame_features")
            frames = frame_features[:, :, 0]
            (patches,) = to_common_float(frame_features[:, :, 1:].flatten(1, 2))
            patches = normalize(patches, dim=-1)
        context, mask, _ = super().encode_video_features(frames, frame_mask)
        u, f = (normalize(x, dim=-1) for x in to_common_float(context, frames))
        V = torch.einsum("bfd,bf->bd", u, mask.to(u.dtype))
        return EERCFVideo(normalize(V, dim=-1), u, f, mask, patches)

    def similarity(self, text: EERCFText, video: EERCFVideo) -> Tensor:
        """The score of every pair, all levels of all of them: (A, B).

        .5 video + .8 frame weak + .2 frame strong + .2 patch weak, as the release
        reranks. Raises ``ValueError`` for sizes that do not fit and features that are
        not finite.
        """
        rows = 0 if video.patches is None else video.patches.shape[1]
        elements = len(text.captions) * (rows + video.frames.shape[2])
        scores = self._by_chunks(
            lambda part: reranking_score(self.levels(text, part)), video, elements
        )
        check_finite(
            scores, captions=text.captions, frames=video.frames, videos=video.videos
        )
        return scores

    @torch.no_grad()
    def two_stage(
        self,
        text: EERCFText,
        video: EERCFVideo,
        shortlist: int = 50,
        recall: Recall = "videos of captions",
    ) -> Tensor:
        """``similarity`` of the ``shortlist`` best pairs by the coarse score: (A, B).

        Only these are scored on frames and patches, one video at a time, so none is
        copied; they stand above all others, which keep their coarse order. ``recall``:
        see ``Recall``. Raises ``ValueError`` for a shortlist below 1.
        """
        with autocast_disabled(video.frames):
            coarse = self.coarse(text, video)
            pairs = recalled(coarse, shortlist, recall)
            fine = torch.full_like(coarse, float("inf"))
            videos, captions = pairs.T.nonzero(as_tuple=True)
            counts = torch.bincount(videos, minlength=coarse.shape[1]).tolist()
            for b, rows in enumerate(captions.split(counts)):
                if len(rows):
                    some = map_features(lambda x, rows=rows: x[rows], text)
                    one = map_features(lambda x, b=b: x[b : b + 1], video)
                    fine[rows, b] = reranking_score(self.levels(some, one))[:, 0]
            # The smallest number that puts the worst fine score above the best coarse one
            # that is left: a large one would round away differences between candidates.
            left = coarse.masked_fill(pairs, float("-inf")).max()
            lift = (left - fine.min() + 1).clamp_min(0)
            return torch.where(pairs, fine + lift, coarse)

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
        x, frame_weak, patch_weak = self._weak_scores(text, video)
        mask, temperature = self.padding_mask(video.mask), self.config.gate_temperature
        strong = gated(gates(x, mask, temperature), video.frames)
        frame_strong = torch.einsum("ad,abd->ab", text.captions, strong)
        return Levels(self.coarse(text, video), frame_weak, frame_strong, patch_weak)

    def frame_weights(self, text: EERCFText, video: EERCFVideo) -> Tensor:
        """The gates of the strong score."""
        x = torch.einsum("ad,bfd->abf", text.captions, video.clip_frames)
        return gates(x, self.padding_mask(video.mask), self.config.gate_temperature)

    def _weak_scores(
        self, text: EERCFText, video: EERCFVideo
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """x (A, B, F), and the weak scores (A, B) of frames and of patches, if any."""
        mask, patch_weak = self.padding_mask(video.mask), None
        x = torch.einsum("ad,bfd->abf", text.captions, video.clip_frames)
        W = self.mixing_matrix(self.frame_mix, x.shape[-1], "frames")
        if video.patches is not None:
            y = torch.einsum("ad,bpd->abp", text.captions, video.patches)
            P = y.shape[2] // x.shape[2]
            patch_mask = None if mask is None else mask.repeat_interleave(P, dim=1)
            patch_weak = mixed_weighted_mean(y, mask=patch_mask)
        return x, mixed_weighted_mean(x, W, mask), patch_weak

    def loss(self, text: EERCFText, video: EERCFVideo) -> EERCFLosses:
        """The released loss of a batch of pairs: row i of both belongs together.

        .8 NCE₂(κ (.5 video + .5 frame weak + .05 patch weak)) + .2 NCE₂(κ frame strong)
        + w (Pearson of t and V + Pearson of t and the frames gated by t itself).
        """
        t, mask = text.captions, self.padding_mask(video.mask)
        with autocast_disabled(video.frames):
            _, frame_weak, patch_weak = self._weak_scores(text, video)
            weak = 0.5 * self.coarse(text, video) + 0.5 * frame_weak
            if patch_weak is not None:
                weak = weak + 0.05 * patch_weak
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


def recalled(
    coarse: Tensor, shortlist: int, recall: Recall = "videos of captions"
) -> Tensor:
    """Which pairs (A, B) are among the ``shortlist`` best of their caption or video."""
    if shortlist < 1:
        raise ValueError(f"shortlist must be at least 1, got {shortlist}.")
    check(Recall, recall, "recall")
    dim = 1 if recall == "videos of captions" else 0
    best = coarse.topk(min(shortlist, coarse.shape[dim]), dim=dim).indices
    return torch.zeros_like(coarse, dtype=torch.bool).scatter(dim, best, 1)


def reranking_score(levels: Levels) -> Tensor:
    """The released weights of the levels when pairs are reranked: (A, B)."""
    score = 0.5 * levels.video + 0.8 * levels.frame_weak + 0.2 * levels.frame_strong
    if levels.patch_weak is not None:
        score = score + 0.2 * levels.patch_weak
    return score
