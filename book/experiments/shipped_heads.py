"""Every similarity head as the package computes it, in three phases, to count and time.

What a retrieval method computes between the encoders and the score of a pair: once per
video (``per_video``), once per caption (``per_query``), and for every pair
(``per_pair``). Thin adapters: what they count and time are the functions and methods
that are trained, with masks in which all is real.

A multiply-add is counted where it is written as a product of matrices or an ``einsum``
with a sum. Scaling by a weight, the weighted mean of a few scores, norms and softmax
are elementwise and are not counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from book.experiments.formulas import Sizes
from glscl.backbone import Backbone
from glscl.config import MODEL_CONFIGS, EERCFConfig, GLCCLConfig, override
from glscl.eercf import EERCF, EERCFText, EERCFVideo
from glscl.gim import global_similarity, gram_form
from glscl.glccl import GLCCL, Queries
from glscl.heads.base import Head as HeadModel
from glscl.lim import LocalInteraction, local_similarity
from glscl.retriever import TextFeatures
from glscl.runs import METHODS


class Texts(NamedTuple):
    """``captions``: (A, D) sentence features, ``tokens``: (A, L, D)."""

    captions: Tensor
    tokens: Tensor


class Videos(NamedTuple):
    """``frames``: (B, F, D), ``patches``: (B, F, P, D), needed by EERCF alone."""

    frames: Tensor
    patches: Tensor | None = None


State = tuple[Any, ...]


class Head(nn.Module, ABC):
    """A similarity head in three phases; calling it runs all of them."""

    def per_video(self, videos: Videos) -> State:
        """What is computed once for each of B videos."""
        return (videos.frames,)

    def per_query(self, texts: Texts) -> State:
        """What is computed once for each of A captions."""
        return (texts.captions,)

    @abstractmethod
    def per_pair(self, query: State, video: State) -> Tensor:
        """Scores (A, B) from what the other phases returned."""

    def forward(
        self,
        captions: Tensor,
        tokens: Tensor,
        frames: Tensor,
        patches: Tensor | None = None,
    ) -> Tensor:
        """Scores (A, B) of ``Texts`` and ``Videos``, given as their tensors."""
        query = self.per_query(Texts(captions, tokens))
        return self.per_pair(query, self.per_video(Videos(frames, patches)))


def part_of(state: State, rows: slice) -> State:
    """The videos of a state at ``rows``, in a tuple of the same kind."""
    make: Callable[[Any], State] = getattr(type(state), "_make", tuple)
    return make(None if x is None else x[rows] for x in state)


GlobalScores = Callable[[Tensor, Tensor, Tensor], Tensor]


def all_real(features: Tensor) -> Tensor:
    """A mask (N, M) without padding for features (N, M, D)."""
    return features.new_ones(features.shape[:2], dtype=torch.bool)


class ModelHead(Head):
    """A head of ``glscl.heads``; ``fold``: in its folded form.

    Frames stand for those before and those after the frame transformer.
    """

    def __init__(self, model: HeadModel, fold: bool = False):
        super().__init__()
        self.model, self.fold = model, fold

    def per_video(self, videos: Videos) -> State:
        frames = videos.frames
        return self.model.video_state(frames, frames, all_real(frames), self.fold)

    def per_query(self, texts: Texts) -> State:
        text = TextFeatures(*texts, all_real(texts.tokens))
        return self.model.text_state(text, self.fold)

    def per_pair(self, query: State, video: State) -> Tensor:
        return self.model.scores(query, video)


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


def head_model(method: str, sizes: Sizes, **changes: Any) -> HeadModel:
    """A head of ``glscl.heads`` for features of these sizes, without padding."""
    lengths = {"max_words": sizes.L, "max_frames": sizes.F, "temporal_layers": 0}
    settings = {**lengths, "mask_padding": False, **changes}
    config = override(MODEL_CONFIGS[method](), settings)
    model = METHODS[method](stub_backbone(sizes), config)
    assert isinstance(model, HeadModel)
    return model.eval()


def reference_heads(
    s: Sizes, gram: GlobalScores = gram_form
) -> dict[str, tuple[Head, Head | None]]:
    """Every head, and its folded form where there is one, with the same weights.

    ``gram``: the GIM of the folded GLSCL. ``gim.gram_form`` is the equation that
    ``formulas.folded_macs`` counts; ``gim.global_similarity`` computes it faster.
    """
    lim = LocalInteraction(s.D, s.Q, s.decoder_layers, s.H).eval()
    direct = partial(global_similarity, method="direct")
    glccl, xpool = glccl_model(s), head_model("xpool", s)
    dicosa = head_model("dicosa", s, num_concepts=s.C)
    return {
        "CLIP4Clip": (ModelHead(head_model("clip4clip", s)), None),
        "TS2-Net": (ModelHead(head_model("ts2net", s)), None),
        "X-CLIP": (ModelHead(head_model("xclip", s)), None),
        "X-Pool": (ModelHead(xpool), ModelHead(xpool, fold=True)),
        "DiCoSA": (ModelHead(dicosa), ModelHead(dicosa, fold=True)),
        "GLSCL": (GLSCLHead(lim, "decoder", direct), GLSCLHead(lim, "folded", gram)),
        "WTI": (ModelHead(head_model("drl", s)), None),
        "GLCCL": (GLCCLHead(glccl, "direct"), GLCCLHead(glccl, "folded")),
        "EERCF, frames": (EERCFHead(eercf_model(s, patches=False)), None),
        "EERCF, frames and patches": (EERCFHead(eercf_model(s)), None),
    }
