"""The heads of GLSCL, GLCCL and EERCF as the package computes them, in three phases.

Thin adapters: what they count and time are the functions and methods that ship, with
masks in which all is real. ``reference_heads`` puts them beside the heads of other
methods, see ``counted_heads``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from book.experiments.counted_heads import (
    WTI,
    XCLIP,
    DiCoSA,
    DiCoSAFolded,
    Head,
    MeanPooling,
    State,
    Texts,
    TS2Net,
    Videos,
    XPool,
    XPoolFolded,
)
from glscl.backbone import Backbone
from glscl.config import EERCFConfig, GLCCLConfig
from glscl.costs.formulas import Sizes
from glscl.eercf import EERCF, EERCFText, EERCFVideo
from glscl.gim import global_similarity, gram_form
from glscl.glccl import GLCCL, Queries
from glscl.lim import LocalInteraction, local_similarity

GlobalScores = Callable[[Tensor, Tensor, Tensor], Tensor]


def all_real(features: Tensor) -> Tensor:
    """A mask (N, M) without padding for features (N, M, D)."""
    return features.new_ones(features.shape[:2], dtype=torch.bool)


class GLSCLHead(Head):
    """GIM + ½ LIM; the LIM decodes each item once.

    ``decoding``: the decoder as it is defined, or folded. ``global_scores``: the GIM, a
    function of captions, frames and their mask. The Gram form makes the Gram matrices
    of the videos within its call, so they are a part of ``per_pair`` here.
    """

    def __init__(
        self,
        lim: LocalInteraction,
        decoding: Literal["decoder", "folded"],
        global_scores: GlobalScores,
    ):
        super().__init__()
        self.lim, self.decoding, self.global_scores = lim, decoding, global_scores

    def per_video(self, videos: Videos) -> State:
        return videos.frames, self.lim(videos.frames, method=self.decoding)

    def per_query(self, texts: Texts) -> State:
        return texts.captions, self.lim(texts.tokens, method=self.decoding)

    def per_pair(self, query: State, video: State) -> Tensor:
        (captions, text_concepts), (frames, video_concepts) = query, video
        scores = self.global_scores(captions, frames, all_real(frames))
        return scores + 0.5 * local_similarity(text_concepts, video_concepts)


class GLCCLHead(Head):
    """The mean of GLCCL's four scores; ``form``: as in ``GLCCL.level_scores``."""

    def __init__(self, model: GLCCL, form: Literal["direct", "folded"]):
        super().__init__()
        self.model, self.form = model, form

    def per_query(self, texts: Texts) -> State:
        return self.model._queries(*texts)

    def per_pair(self, query: State, video: State) -> Tensor:
        direct = self.form == "direct"
        products = self.model._direct if direct else self.model._folded
        levels = self.model._levels(products(Queries(*query), video[0], None), None)
        return levels.mean(dim=0)


class EERCFHead(Head):
    """EERCF: all levels of every pair, or (with a ``shortlist``) in two stages.

    With a model that scores patches, ``videos.patches`` is needed; else ``ValueError``.
    """

    def __init__(self, model: EERCF, shortlist: int | None = None):
        super().__init__()
        self.model, self.shortlist = model, shortlist

    def per_video(self, videos: Videos) -> State:
        frames = normalize(videos.frames, dim=-1)
        state = (normalize(frames.mean(1), dim=-1), frames)
        if not self.model.uses_patches:
            return state
        if videos.patches is None:
            raise ValueError("videos.patches is missing: expected (B, F, P, D).")
        return *state, normalize(videos.patches, dim=-1).flatten(1, 2)

    def per_query(self, texts: Texts) -> State:
        t = normalize(texts.captions, dim=-1)
        return t, t @ self.model.video_map

    def per_pair(self, query: State, video: State) -> Tensor:
        pooled, frames, *patches = video
        text = EERCFText(*query)
        gallery = EERCFVideo(pooled, frames, frames, all_real(frames), *patches)
        if self.shortlist is None:
            return self.model.similarity(text, gallery)
        return self.model.two_stage(text, gallery, self.shortlist)


def stub_backbone(sizes: Sizes) -> Backbone:
    """A CLIP of one thin layer with features of the right size, which is never run."""
    tower = {"width": 64, "layers": 1}
    return Backbone(
        "stub",
        {
            "embed_dim": sizes.D,
            "vision_cfg": {"image_size": 32, "patch_size": 32, **tower},
            "text_cfg": {"context_length": 8, "vocab_size": 8, "heads": 1, **tower},
        },
    )


def eercf_model(sizes: Sizes, patches: bool = True) -> EERCF:
    """EERCF for features of these sizes, without padding."""
    config = EERCFConfig(
        temporal_layers=0, max_frames=sizes.F, mask_padding=False, patches=patches
    )
    return EERCF(stub_backbone(sizes), config).eval()


def glccl_model(sizes: Sizes) -> GLCCL:
    """GLCCL for features of these sizes, without padding."""
    config = GLCCLConfig(temporal_layers=0, max_words=sizes.L, mask_padding=False)
    return GLCCL(stub_backbone(sizes), config).eval()


def reference_heads(
    s: Sizes, gram: GlobalScores = gram_form
) -> dict[str, tuple[Head, Head | None]]:
    """Every head, and its folded form where there is one, with the same weights.

    ``gram``: the GIM of the folded GLSCL. ``gim.gram_form`` is the equation that
    ``formulas.folded_macs`` counts; ``gim.global_similarity`` computes it faster.
    """
    lim = LocalInteraction(s.D, s.Q, s.decoder_layers, s.H).eval()
    direct = partial(global_similarity, method="direct")
    glccl = glccl_model(s)
    pairs: dict[str, tuple[Head, Head | None]] = {
        "CLIP4Clip": (MeanPooling(), None),
        "TS2-Net": (TS2Net(), None),
        "X-CLIP": (XCLIP(s.D, s.F, s.L), None),
        "X-Pool": (XPool(s.D), XPoolFolded(s.D)),
        "DiCoSA": (DiCoSA(s.D, s.C), DiCoSAFolded(s.D, s.C)),
        "GLSCL": (GLSCLHead(lim, "decoder", direct), GLSCLHead(lim, "folded", gram)),
        "WTI": (WTI(s.D), None),
        "GLCCL": (GLCCLHead(glccl, "direct"), GLCCLHead(glccl, "folded")),
        "EERCF, frames": (EERCFHead(eercf_model(s, patches=False)), None),
        "EERCF, frames and patches": (EERCFHead(eercf_model(s)), None),
    }
    for plain, folded in pairs.values():
        if folded is not None:
            folded.load_state_dict(plain.state_dict())
    return pairs
