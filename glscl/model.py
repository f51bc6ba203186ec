"""GLSCL put together: encoders, both interaction modules, the loss.

    S = global + local_weight · local,    loss = InfoNCE(κ S) + ICL + IDL.

Every step is in a file of its own. This one applies those that a ``ModelConfig`` names,
and keeps the concepts with the features of an item, so that each is decoded once.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glscl import weights
from glscl.backbone import Backbone
from glscl.config import ModelConfig
from glscl.gim import frame_weights, global_similarity, mean_similarity
from glscl.lim import LocalInteraction, local_similarity
from glscl.losses import info_nce, inter_consistency, intra_diversity
from glscl.retriever import Retriever, TextFeatures, VideoFeatures


class Losses(NamedTuple):
    """Scalars; ``total`` is the sum of the others, which carry their weights already."""

    total: Tensor
    info_nce: Tensor
    icl: Tensor
    idl: Tensor


class GLSCL(Retriever):
    """Text-video similarity from global and local interaction."""

    method = "glscl"
    always_hides_padding = True

    def __init__(self, backbone: Backbone, config: ModelConfig):
        super().__init__(backbone, config)
        if not config.local:
            return
        new_lim = partial(
            LocalInteraction,
            backbone.embed_dim,
            config.num_queries,
            config.num_decoder_layers,
            config.num_heads,
            config.dropout,
        )
        self.lim_video = self.lim_text = new_lim()
        if not (config.share_queries and config.share_decoder):
            self.lim_text = new_lim()
        if config.share_queries:
            self.lim_text.queries = self.lim_video.queries
        if config.share_decoder:
            self.lim_text.decoder = self.lim_video.decoder

    def encode_text(self, token_ids: Tensor, token_mask: Tensor) -> TextFeatures:
        text = super().encode_text(token_ids, token_mask)
        return text._replace(concepts=self.text_concepts(text))

    def encode_video_features(
        self, frame_features: Tensor, frame_mask: Tensor
    ) -> VideoFeatures:
        video = super().encode_video_features(frame_features, frame_mask)
        return video._replace(concepts=self.video_concepts(video))

    def loss_features(
        self, text: TextFeatures, video: VideoFeatures
    ) -> tuple[TextFeatures, VideoFeatures]:
        """The features of a batch without the tokens (A, L, D), which the loss ignores.

        The concepts are decoded already; the sentence (A, 1, D) stands in for the tokens.
        """
        token = text.captions[:, None]
        mask = torch.ones_like(token[..., 0], dtype=torch.bool)
        return text._replace(tokens=token, mask=mask), video

    def text_concepts(self, text: TextFeatures) -> Any:
        """Concepts (A, Q, D) of captions, decoded if not in ``text``; without LIM None."""
        if text.concepts is None and self.config.local:
            return self.lim_text(text.tokens, self.padding_mask(text.mask))
        return text.concepts

    def video_concepts(self, video: VideoFeatures) -> Any:
        """Concepts (B, Q, D) of videos, decoded if not in ``video``; without LIM None."""
        if video.concepts is None and self.config.local:
            return self.lim_video(video.frames, self.padding_mask(video.mask))
        return video.concepts

    def similarity(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """S = global + local_weight · local, of every caption and video: (A, B).

        Raises ``ValueError`` for sizes that do not fit and features that are not finite.
        """
        config = self.config
        features = text.captions, video.frames, video.mask
        if config.pooling == "gim":
            scores = global_similarity(*features, config.temperature)
        else:
            scores = mean_similarity(*features)
        if not config.local:
            return scores
        local = local_similarity(self.text_concepts(text), self.video_concepts(video))
        return scores + config.local_weight * local

    def coarse_text(self, text: TextFeatures) -> Tensor:
        """The unit sentence; with a LIM the mean concept, by √local_weight, beside it."""
        return self._beside(super().coarse_text(text), self.text_concepts(text))

    def coarse_video(self, video: VideoFeatures) -> Tensor:
        """The unit mean frame; with a LIM the mean concept, as in ``coarse_text``."""
        return self._beside(super().coarse_video(video), self.video_concepts(video))

    def _beside(self, vectors: Tensor, concepts: Tensor | None) -> Tensor:
        if concepts is None:
            return vectors
        weighted = self.config.local_weight**0.5 * concepts.mean(dim=1)
        return torch.cat([vectors, weighted], dim=-1)

    def frame_weights(self, text: TextFeatures, video: VideoFeatures) -> Tensor | None:
        """Those of the GIM."""
        if self.config.pooling != "gim":
            return None
        tau = self.config.temperature
        return frame_weights(text.captions, video.frames, video.mask, tau)

    def loss(self, text: TextFeatures, video: VideoFeatures) -> Losses:
        """The training loss of a batch of pairs: row i of both belongs together (A = B).

        Without the LIM there are no concepts: ICL and IDL are 0.
        """
        config = self.config
        text = text._replace(concepts=self.text_concepts(text))
        video = video._replace(concepts=self.video_concepts(video))
        contrastive = info_nce(self.kappa * self.similarity(text, video))
        icl = idl = torch.zeros_like(contrastive)
        if config.local:
            concepts = self.video_concepts(video), self.text_concepts(text)
            icl = config.icl_weight * inter_consistency(
                *concepts, beta=config.beta, normalise=config.icl_normalise
            )
            idl = config.alpha * intra_diversity(
                *concepts, margin=config.idl_margin, sides=config.idl_sides
            )
        return Losses(contrastive + icl + idl, contrastive, icl, idl)

    @classmethod
    def from_authors(
        cls,
        path: str | Path,
        share: bool = True,
        preset: str | None = None,
        backbone: str | None = None,
        **settings: Any,
    ) -> GLSCL:
        """The model in a checkpoint of the released code, computing what that computes.

        ``path``: a ``.pt`` or ``.bin`` state dict, or ``.safetensors`` with its names,
        see ``weights.AUTHORS_PREFIXES``. All sizes are read from it. What it does not
        say: ``share``, whether both modalities share queries and decoder; ``preset``, the
        benchmark that it was trained for, whose released settings the model gets; or
        single ``settings``, such as ``temperature``, ``alpha``, ``beta``, ``dropout``,
        ``max_words`` and ``max_frames``. ``backbone``: the open_clip name of the CLIP
        that the file must hold. Padding is not masked in the LIM, as in the release.

        Raises ``ValueError`` for a file that is no such checkpoint (pickled objects
        included), that lacks a weight, has one of unknown name, or holds another
        backbone, and for unknown settings; ``FileNotFoundError`` for a missing file.
        """
        name_of = weights.authors_shared_name if share else weights.authors_name
        unused = weights.UNUSED + (weights.UNUSED_WHEN_SHARED if share else ())
        settings = {"share_queries": share, "share_decoder": share, **settings}
        return cls._from_authors(path, preset, backbone, settings, name_of, unused)
