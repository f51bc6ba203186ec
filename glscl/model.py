"""GLSCL put together: encoders, both interaction modules, the loss; save and load.

    S = global + local_weight · local,    loss = InfoNCE(κ S) + ICL + IDL.

Every step is in a file of its own; this one decides which are used, from a
``ModelConfig``, and keeps what was computed once per item with the item.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from glscl.backbone import Backbone, load_backbone, read_state_dict
from glscl.config import (
    ModelConfig,
    config_from_dict,
    config_to_dict,
    get_preset,
    override,
)
from glscl.gim import global_similarity, mean_similarity
from glscl.lim import LocalInteraction, local_similarity
from glscl.losses import info_nce, inter_consistency, intra_diversity
from glscl.numeric import real_positions
from glscl.shapes import check_shape
from glscl.temporal import FrameTransformer
from glscl.weights import (
    DEAD,
    DEAD_WHEN_SHARED,
    authors_backbone,
    authors_config,
    authors_name,
    authors_shared_name,
    copy_weights,
    own_names,
    read_directory,
    save_directory,
)

MAX_LOGIT_SCALE = math.log(100)


class TextFeatures(NamedTuple):
    """Captions, encoded.

    ``captions``: (A, D) sentences, ``tokens``: (A, L, D), ``mask``: (A, L), True = real,
    ``concepts``: (A, Q, D), unit norm, or ``None`` where they are still to be decoded.
    """

    captions: Tensor
    tokens: Tensor
    mask: Tensor
    concepts: Tensor | None = None


class VideoFeatures(NamedTuple):
    """Videos, encoded.

    ``frames``: (B, F, D) after the frame transformer, ``mask``: (B, F), True = real,
    ``concepts``: (B, Q, D), unit norm, or ``None`` where they are still to be decoded.
    """

    frames: Tensor
    mask: Tensor
    concepts: Tensor | None = None


class Losses(NamedTuple):
    """Scalars; ``total`` is the sum of the others, which carry their weights already."""

    total: Tensor
    info_nce: Tensor
    icl: Tensor
    idl: Tensor


class GLSCL(nn.Module):
    """Text-video similarity from global and local interaction.

    ``backbone``: the CLIP of both encoders; ``config``: every other choice. The frame
    transformer starts as a copy of the first blocks of CLIP's text transformer.

    Raises ``ValueError`` where the sizes of both cannot go together.
    """

    def __init__(self, backbone: Backbone, config: ModelConfig):
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.temporal = self._frame_transformer() if config.temporal_layers else None
        if config.local:
            self.lim_video = self._local_interaction()
            self.lim_text = self._text_interaction()

    def _frame_transformer(self) -> FrameTransformer:
        clip = self.backbone.clip
        D, width = self.backbone.embed_dim, clip.positional_embedding.shape[1]
        if width != D:
            raise ValueError(
                f"The frame transformer starts as CLIP's text transformer, but that of "
                f"{self.backbone.name} has {width} channels and its features {D}; use "
                "temporal_layers=0."
            )
        transformer = FrameTransformer(
            D,
            clip.transformer.resblocks[0].attn.num_heads,
            self.config.temporal_layers,
            self.backbone.context_length,
        )
        transformer.copy_from_text(
            clip.transformer.resblocks, clip.positional_embedding
        )
        return transformer

    def _local_interaction(self) -> LocalInteraction:
        config = self.config
        return LocalInteraction(
            self.backbone.embed_dim,
            config.num_queries,
            config.num_decoder_layers,
            config.num_heads,
            config.dropout,
        )

    def _text_interaction(self) -> LocalInteraction:
        """The text side of the LIM: what is shared is the video side's own."""
        if self.config.share_queries and self.config.share_decoder:
            return self.lim_video
        lim = self._local_interaction()
        if self.config.share_queries:
            lim.queries = self.lim_video.queries
        if self.config.share_decoder:
            lim.decoder = self.lim_video.decoder
        return lim

    @property
    def kappa(self) -> Tensor:
        """κ = exp(logit_scale), the inverse temperature of the InfoNCE."""
        return self.backbone.logit_scale.exp()

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep κ ≤ 100; to be called after every optimiser step."""
        self.backbone.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    def encode_text(self, token_ids: Tensor, token_mask: Tensor) -> TextFeatures:
        """Features of captions from their ``token_ids`` and ``token_mask``, both (A, L).

        Raises ``ValueError`` for sizes that do not fit and a mask row that is all False.
        """
        A, L = check_shape(token_ids, "A L", "token_ids").values()
        mask = real_positions(token_mask, "A L", "token_mask", "caption", A=A, L=L)
        captions, tokens = self.backbone.encode_text(token_ids, mask)
        text = TextFeatures(captions, tokens, mask)
        if self.config.local:
            text = text._replace(concepts=self.text_concepts(text))
        return text

    def encode_frames(self, pixels: Tensor) -> Tensor:
        """CLIP's features (B, F, D) of ``pixels`` (B, F, 3, H, W), frame by frame.

        They do not depend on the rest of the model, so they can be kept while CLIP is.
        """
        B, F, *_ = check_shape(pixels, "B F 3 H W", "pixels").values()
        return self.backbone.encode_image(pixels.flatten(0, 1)).unflatten(0, (B, F))

    def encode_video(self, pixels: Tensor, frame_mask: Tensor) -> VideoFeatures:
        """Features of videos from ``pixels`` (B, F, 3, H, W), ``frame_mask`` (B, F).

        Raises ``ValueError`` for sizes that do not fit and a video without a real frame.
        """
        return self.encode_video_features(self.encode_frames(pixels), frame_mask)

    def encode_video_features(
        self, frame_features: Tensor, frame_mask: Tensor
    ) -> VideoFeatures:
        """``encode_video`` from what ``encode_frames`` gave: (B, F, D)."""
        D = self.backbone.embed_dim
        B, F, _ = check_shape(frame_features, "B F D", "frame_features", D=D).values()
        mask = real_positions(frame_mask, "B F", "frame_mask", "video", B=B, F=F)
        if self.temporal is not None:
            frame_features = self.temporal(frame_features, mask)
        video = VideoFeatures(frame_features, mask)
        if self.config.local:
            video = video._replace(concepts=self.video_concepts(video))
        return video

    def text_concepts(self, text: TextFeatures) -> Tensor:
        """Concepts (A, Q, D) of captions: those they carry, else decoded now."""
        if text.concepts is not None:
            return text.concepts
        return self.lim_text(
            text.tokens, text.mask if self.config.mask_padding else None
        )

    def video_concepts(self, video: VideoFeatures) -> Tensor:
        """Concepts (B, Q, D) of videos: those they carry, else decoded now."""
        if video.concepts is not None:
            return video.concepts
        return self.lim_video(
            video.frames, video.mask if self.config.mask_padding else None
        )

    def forward(
        self, token_ids: Tensor, token_mask: Tensor, video: Tensor, frame_mask: Tensor
    ) -> tuple[TextFeatures, VideoFeatures]:
        """Both encoders at once, for wrappers that call a module (DDP).

        ``video``: pixels (B, F, 3, H, W), or frame features (B, F, D).
        """
        encode = self.encode_video if video.ndim == 5 else self.encode_video_features
        return self.encode_text(token_ids, token_mask), encode(video, frame_mask)

    def similarity(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """S = global + local_weight · local, of every caption and video: (A, B).

        Raises ``ValueError`` for sizes that do not fit and features that are not finite.
        """
        config = self.config
        if config.pooling == "gim":
            scores = global_similarity(
                text.captions, video.frames, video.mask, config.temperature
            )
        else:
            scores = mean_similarity(text.captions, video.frames, video.mask)
        if not config.local:
            return scores
        local = local_similarity(self.text_concepts(text), self.video_concepts(video))
        return scores + config.local_weight * local

    def loss(self, text: TextFeatures, video: VideoFeatures) -> Losses:
        """The training loss of a batch of pairs: row i of both belongs together (A = B).

        Without the LIM there are no concepts: ICL and IDL are 0.
        """
        config = self.config
        if not config.local:
            contrastive = info_nce(self.kappa * self.similarity(text, video))
            zero = torch.zeros_like(contrastive)
            return Losses(contrastive, contrastive, zero, zero)
        text_concepts, video_concepts = (
            self.text_concepts(text),
            self.video_concepts(video),
        )
        scores = self.similarity(
            text._replace(concepts=text_concepts),
            video._replace(concepts=video_concepts),
        )
        contrastive = info_nce(self.kappa * scores)
        icl = config.icl_weight * inter_consistency(
            video_concepts,
            text_concepts,
            beta=config.beta,
            normalise=config.icl_normalise,
        )
        idl = config.alpha * intra_diversity(
            video_concepts,
            text_concepts,
            margin=config.idl_margin,
            sides=config.idl_sides,
        )
        return Losses(contrastive + icl + idl, contrastive, icl, idl)

    @classmethod
    def from_preset(
        cls,
        name: str,
        tag: Literal["released", "paper"] = "released",
        **changes: Any,
    ) -> GLSCL:
        """The model of a benchmark's preset, ready for training, in evaluation mode.

        ``changes``: settings of ``ModelConfig`` that differ, such as ``backbone`` and
        ``pretrained``. Queries and decoder start at random: set torch's seed before.

        Raises ``ValueError`` for unknown names, and what ``load_backbone`` raises.
        """
        config = override(get_preset(name, tag).model, changes)
        return cls(load_backbone(config.backbone, config.pretrained), config).eval()

    @classmethod
    def from_authors(
        cls,
        path: str | Path,
        share: bool = True,
        temperature: float = 3.0,
        local_weight: float = 0.5,
        backbone: str | None = None,
    ) -> GLSCL:
        """The model in a checkpoint of the released code, computing what that computes.

        ``path``: a ``.pt`` or ``.bin`` state dict, or ``.safetensors`` with its names.
        ``share``, ``temperature`` (5 for LSMDC), ``local_weight``: how it was trained,
        which the file does not say. ``backbone``: the model's open_clip name if the
        file must hold that one; all sizes are read from the file otherwise. Padding is
        not masked in the LIM (``mask_padding=False``), as in the release.

        Raises ``ValueError`` for a file that is no such checkpoint (pickled objects
        included), that lacks a weight, has one of unknown name, or holds another
        backbone; ``FileNotFoundError`` for a missing file.
        """
        source = str(path)
        state = read_state_dict(Path(path))
        name, clip_config, sizes = authors_config(state, source)
        if backbone is not None:
            name = authors_backbone(backbone, clip_config, source)
        config = ModelConfig(
            backbone=name,
            pretrained=None,
            temperature=temperature,
            local_weight=local_weight,
            share_queries=share,
            share_decoder=share,
            mask_padding=False,
        )
        config = override(config, sizes)
        model = cls(Backbone(name, clip_config), config)
        ignored = DEAD + DEAD_WHEN_SHARED if share else DEAD
        name_of = authors_shared_name if share else authors_name
        copy_weights(model, state, source, name_of, ignored)
        return model.eval()

    def save(self, path: str | Path) -> None:
        """Write the model to the directory ``path``: safetensors and ``config.json``.

        Takes effect as a whole or not at all, also where an older model is replaced.
        """
        description = {
            "backbone": {
                "name": self.backbone.name,
                "quick_gelu": self.backbone.quick_gelu,
                "config": self.backbone.config,
            },
            "model": config_to_dict(self.config),
        }
        state = self.state_dict()
        weights = {name: state[name] for name in own_names(self)}
        save_directory(Path(path), description, weights)

    @classmethod
    def load(cls, path: str | Path, backbone: str | None = None) -> GLSCL:
        """The model that ``save`` wrote to ``path``, in evaluation mode, on the CPU.

        ``backbone``: the open_clip name that the model must have. Raises
        ``FileNotFoundError`` for missing files, ``ValueError`` for files that are not a
        model, do not fit together, or hold another backbone.
        """
        saved = read_directory(Path(path))
        if backbone not in (None, saved.backbone):
            raise ValueError(
                f"{path} holds a model with the backbone {saved.backbone!r}, expected "
                f"{backbone!r}."
            )
        config = config_from_dict(ModelConfig, saved.settings)
        model = cls(Backbone(saved.backbone, saved.clip_config), config)
        copy_weights(model, read_state_dict(saved.weights), str(saved.weights))
        return model.eval()
