"""What every method of the book shares: the encoders, the files, the contract.

A method encodes captions and videos once each and scores every pair of them:

    text = model.encode_text(token_ids, token_mask)
    video = model.encode_video(pixels, frame_mask)
    model.similarity(text, video)  # (A, B)
    model.loss(text, video).total  # of a batch of pairs

Both features are named tuples of tensors whose first axis counts the items, so they are
concatenated, split and gathered without knowing the method: ``map_features``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from glscl import weights
from glscl.backbone import ASSETS, MINI, Backbone, load_backbone
from glscl.config import (
    MODEL_CONFIGS,
    EncoderConfig,
    Tag,
    config_from_dict,
    get_preset,
    override,
)
from glscl.temporal import FrameTransformer
from glscl.util import parallel
from glscl.util.files import write_text
from glscl.util.hub import download, model_card, upload
from glscl.util.numeric import autocast_disabled, validate_mask
from glscl.util.shapes import check_shape
from glscl.util.state_dicts import copy_weights, read_state_dict

if TYPE_CHECKING:
    from typing_extensions import Self


class TextFeatures(NamedTuple):
    """Captions, encoded.

    ``captions``: (A, D) sentences, ``tokens``: (A, L, D), ``mask``: (A, L), True = real,
    ``concepts``: (A, Q, D), unit norm, or ``None`` where there are none, or not yet.
    """

    captions: Tensor
    tokens: Tensor
    mask: Tensor
    concepts: Tensor | None = None


class VideoFeatures(NamedTuple):
    """Videos, encoded.

    ``frames``: (B, F, D) after the frame transformer, ``mask``: (B, F), True = real,
    ``concepts``: (B, Q, D), unit norm, or ``None`` where there are none, or not yet.
    """

    frames: Tensor
    mask: Tensor
    concepts: Tensor | None = None


def map_features(function: Callable[..., Tensor], *features: Any) -> Any:
    """Features of the kind of ``features``: ``function`` of their tensors, by field.

    ``features``: named tuples of one kind, such as the parts of a batch to concatenate.
    A field that is ``None`` stays ``None``.
    """
    return type(features[0])._make(
        None if values[0] is None else function(*values)
        for values in zip(*features, strict=True)
    )


class Retriever(nn.Module, ABC):
    """CLIP and the frame transformer; a method adds how both sides are compared.

    ``backbone``: the CLIP of both encoders; ``config``: every other choice. The frame
    transformer starts as a copy of the first blocks of CLIP's text transformer.

    Raises ``ValueError`` where the sizes of both do not fit together.
    """

    #: The name of the method in ``config.MODEL_CONFIGS``.
    method: ClassVar[str]
    #: Whether the features of a video include those of patches.
    uses_patches = False
    #: Whether weights that are not CLIP's start at random, so that scores mean nothing
    #: before training (in GLSCL, those of the LIM).
    starts_at_random = False
    #: Elements of the largest intermediate tensor of a chunk of videos.
    chunk_elements = 1_000_000
    #: Whether padded tokens are hidden from the others in CLIP also where the method
    #: masks nothing (``mask_padding=False``), as some releases do.
    always_hides_padding = False
    #: The fields of a text whose second axis counts the words; ``mask`` is one.
    word_fields: ClassVar[tuple[str, ...]] = ()
    #: See ``TrainConfig.gradient_divisor``, which training sets it to.
    gradient_divisor = 1
    #: How the model was trained and measured, see ``hub.model_card``; saved with it.
    record: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, backbone: Backbone, config: EncoderConfig):
        super().__init__()
        self.backbone = backbone
        self.config: Any = config
        self.temporal = self._frame_transformer() if config.temporal_layers else None

    def _frame_transformer(self) -> FrameTransformer:
        blocks = self.backbone.clip.transformer.resblocks
        positions = self.backbone.clip.positional_embedding
        (context, width), D = positions.shape, self.backbone.embed_dim
        if width != D:
            raise ValueError(
                f"The frame transformer starts as CLIP's text transformer, but that of "
                f"{self.backbone.name} has {width} channels and its features {D}; use "
                "temporal_layers=0."
            )
        heads, layers = blocks[0].attn.num_heads, self.config.temporal_layers
        transformer = FrameTransformer(D, heads, layers, context)
        transformer.copy_from_text(blocks, positions)
        if self.config.position_std is not None:
            nn.init.normal_(transformer.positions, std=self.config.position_std)
        return transformer

    @property
    def kappa(self) -> Tensor:
        """κ = exp(logit_scale), the inverse temperature of the InfoNCE."""
        return self.backbone.logit_scale.exp()

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep κ ≤ 100; to be called after every optimiser step."""
        self.backbone.logit_scale.clamp_(max=math.log(100))

    # --- what a method defines ----------------------------------------------------

    def encode_text(self, token_ids: Tensor, token_mask: Tensor) -> Any:
        """Features of captions from their ``token_ids`` and ``token_mask``, both (A, L).

        Here: CLIP's. Raises ``ValueError`` for sizes that do not fit and a mask row that
        is all False.
        """
        A, L = check_shape(token_ids, "A L", "token_ids").values()
        mask = validate_mask(token_mask, "A L", "token_mask", "caption", A=A, L=L)
        hides = self.config.mask_padding or self.always_hides_padding
        encoded = self.backbone.encode_text(token_ids, mask if hides else None)
        captions, tokens = map(self._divide_gradient, encoded)
        return TextFeatures(captions, tokens, mask)

    def encode_video_features(self, frame_features: Tensor, frame_mask: Tensor) -> Any:
        """``encode_video`` from what ``encode_frames`` gave: (B, F, D).

        Here: the frames after the frame transformer, where the real frames of a video
        attend to each other.
        """
        D = self.backbone.embed_dim
        B, F, _ = check_shape(frame_features, "B F D", "frame_features", D=D).values()
        mask = validate_mask(frame_mask, "B F", "frame_mask", "video", B=B, F=F)
        if self.temporal is not None:
            frame_features = self.temporal(frame_features, mask)
        return VideoFeatures(self._divide_gradient(frame_features), mask)

    @abstractmethod
    def similarity(self, text: Any, video: Any) -> Tensor:
        """The score of every caption and video: (A, B)."""

    @abstractmethod
    def loss(self, text: Any, video: Any) -> Any:
        """The training loss of a batch of pairs: row i of both belongs together.

        A named tuple of scalars; ``total`` is the sum of the others, which carry their
        weights already.
        """

    def loss_features(self, text: Any, video: Any) -> tuple[Any, Any]:
        """The features of a batch that the loss needs, to be gathered over processes.

        Every process must return the same shapes, so captions are padded to the longest
        of all; one process computes the same loss from ``text`` and ``video`` themselves.
        """
        if not self.word_fields:
            return text, video
        more = parallel.max_over_ranks(text.mask.shape[1]) - text.mask.shape[1]
        fields = {name: getattr(text, name) for name in self.word_fields}
        longer = {
            n: pad(x, (0, 0) * (x.ndim - 2) + (0, more)) for n, x in fields.items()
        }
        return text._replace(**longer), video

    # --- what a search needs beside the scores --------------------------------------

    def coarse_text(self, text: Any) -> Tensor:
        """Vectors (A, C) whose products with those of videos come near the scores.

        A search finds its candidates by them. Here: the unit sentence.
        """
        return normalize(text.captions, dim=-1)

    def coarse_video(self, video: Any) -> Tensor:
        """The vectors (B, C) of videos to ``coarse_text``. Here: the unit mean frame."""
        return normalize((video.frames * video.mask[..., None]).sum(dim=1), dim=-1)

    def frame_weights(self, text: Any, video: Any) -> Tensor | None:
        """What a caption gives to each frame of a video: (A, B, F), with a sum of 1.

        ``None`` where the method has no such weights.
        """
        return None

    # --- what all share -----------------------------------------------------------

    def encode_frames(self, pixels: Tensor) -> Tensor:
        """CLIP's features of ``pixels`` (B, F, 3, H, W), frame by frame: (B, F, D).

        With patches (B, F, 1 + P, D), the frame first. They do not depend on the rest
        of the model, so they can be kept while CLIP is.
        """
        B, F, *_ = check_shape(pixels, "B F 3 H W", "pixels").values()
        clip = self.backbone
        encode = (
            clip.encode_image_with_patches if self.uses_patches else clip.encode_image
        )
        return encode(pixels.flatten(0, 1)).unflatten(0, (B, F))

    def encode_video(self, pixels: Tensor, frame_mask: Tensor) -> Any:
        """Features of videos from ``pixels`` (B, F, 3, H, W), ``frame_mask`` (B, F).

        Raises ``ValueError`` for sizes that do not fit and a video without a real frame.
        """
        return self.encode_video_features(self.encode_frames(pixels), frame_mask)

    def forward(
        self, token_ids: Tensor, token_mask: Tensor, video: Tensor, frame_mask: Tensor
    ) -> tuple[Any, Any]:
        """Both encoders in one call, for wrappers of a module (``compile``, DDP).

        ``video``: pixels (B, F, 3, H, W), or what ``encode_frames`` made of them.
        """
        encode = self.encode_video if video.ndim == 5 else self.encode_video_features
        return self.encode_text(token_ids, token_mask), encode(video, frame_mask)

    def _by_chunks(
        self, score: Callable[[Any], Tensor], video: Any, elements: int
    ) -> Tensor:
        """``score`` of chunks of the videos, joined: (..., A, B), without autocast.

        ``elements``: those of the largest intermediate tensor for one video.
        """
        size = max(1, self.chunk_elements // elements)
        with autocast_disabled(video.frames):
            chunks = [
                map_features(lambda x, i=i: x[i : i + size], video)
                for i in range(0, len(video.frames), size)
            ]
            return torch.cat([score(chunk) for chunk in chunks], dim=-1)

    def _divide_gradient(self, features: Tensor) -> Tensor:
        """The same features, whose gradient the encoders get divided."""
        if self.gradient_divisor != 1 and features.requires_grad:
            features = features.clone()
            features.register_hook(lambda gradient: gradient / self.gradient_divisor)
        return features

    def padding_mask(self, mask: Tensor) -> Tensor | None:
        """``mask``, or ``None`` where the release masks nothing and so does this."""
        return mask if self.config.mask_padding else None

    def mixing_matrix(self, matrix: Tensor, size: int, items: str) -> Tensor:
        """The part (``size``, ``size``) of a learnt ``matrix`` that mixes so many weights.

        Where padding is masked there may be fewer ``items`` than rows. Raises
        ``ValueError`` for a size that ``matrix`` does not have.
        """
        N, fewer = len(matrix), self.config.mask_padding
        if size > N or (size < N and not fewer):
            raise ValueError(
                f"A video or caption must have {'at most ' if fewer else ''}{N} {items}, "
                f"the size of the mixing matrix, got {size}."
            )
        return matrix[:size, :size]

    @classmethod
    def from_preset(cls, name: str, tag: Tag = "recommended", **changes: Any) -> Self:
        """The model of a benchmark's preset, ready for training, in evaluation mode.

        ``changes``: settings of the model that differ, such as ``backbone`` and
        ``pretrained``. Queries and decoder start at random: set torch's seed before.

        Raises ``ValueError`` for unknown names, and what ``load_backbone`` raises.
        """
        config = override(get_preset(name, tag, cls.method).model, changes)
        return cls(load_backbone(config.backbone, config.pretrained), config).eval()

    @classmethod
    def _from_authors(
        cls,
        path: str | Path,
        preset: str | None,
        backbone: str | None,
        settings: Mapping[str, Any],
        name_of: Callable[[str], str] = weights.authors_name,
        unused: tuple[str, ...] = (),
    ) -> Self:
        """``from_authors`` of a method; the rest as in ``copy_weights``."""
        source, state = str(path), read_state_dict(Path(path))
        name, clip_config, sizes = weights.authors_config(state, source, cls.method)
        if backbone is not None:
            name = weights.authors_backbone(backbone, clip_config, source)
        found = {"backbone": name, "pretrained": None, **sizes}
        for twice in found.keys() & settings.keys():
            raise ValueError(f"{twice} is read from {source}: do not give it.")
        if preset is None:
            start = override(MODEL_CONFIGS[cls.method](), {"mask_padding": False})
        else:
            start = get_preset(preset, "released", cls.method).model
        model = cls(Backbone(name, clip_config), override(start, {**settings, **found}))
        copy_weights(model, state, source, name_of, unused)
        return model.eval()

    def save(self, path: str | Path) -> None:
        """Write the model to the directory ``path``: safetensors and ``config.json``.

        Takes effect as a whole or not at all, also where an older model is replaced.
        """
        weights.save_directory(
            Path(path), self.description(), weights.own_weights(self)
        )

    def description(self) -> dict[str, Any]:
        """What ``config.json`` says of the model."""
        return {
            "method": self.method,
            "backbone": {
                "name": self.backbone.name,
                "quick_gelu": self.backbone.quick_gelu,
                "config": self.backbone.config,
            },
            "model": asdict(self.config),
            "record": dict(self.record),
        }

    def save_pretrained(self, path: str | Path) -> None:
        """Write the model to the directory ``path`` as the Hugging Face Hub has models.

        The files are ``model.safetensors``, ``config.json`` and the model card
        ``README.md``, whose numbers are those of ``record``.
        """
        description = self.description()
        own = weights.own_weights(self)
        weights.save_directory(Path(path), description, own, "model.safetensors")
        write_text(Path(path) / "README.md", model_card(description))

    def push_to_hub(
        self, repo_id: str, private: bool | None = None, token: str | None = None
    ) -> str:
        """``save_pretrained`` to the Hugging Face Hub; returns the address of the model.

        ``repo_id``: ``owner/name``, made if it is not there. ``token``: by default that
        of ``hf auth login``. Raises ``ConnectionError`` where the Hub refuses.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload(Path(folder), repo_id, private, token)

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """A trained model, in evaluation mode, on the CPU.

        ``name``: ``"mini"``, the one that comes with the package; a folder that ``save``
        or ``save_pretrained`` wrote; or ``owner/name`` on the Hugging Face Hub, which is
        downloaded once. Raises ``ValueError`` where the package has no such model,
        ``ConnectionError`` where a download fails, and what ``load`` raises.
        """
        if name != MINI:
            return cls.load(name if Path(name).is_dir() else download(str(name)))
        folder = ASSETS / cls.method
        if not folder.is_dir():
            raise ValueError(
                f"No trained mini model of {cls.__name__} comes with the package: train "
                f"one with `glscl train --method {cls.method}`."
            )
        return cls.load(folder)

    @classmethod
    def load(cls, path: str | Path, backbone: str | None = None) -> Self:
        """The model that ``save`` wrote to ``path``, in evaluation mode, on the CPU.

        ``backbone``: the open_clip name that the model must have. Raises
        ``FileNotFoundError`` for missing files, ``ValueError`` for files that are not a
        model, do not fit together, or hold another method or backbone.
        """
        saved = weights.read_directory(Path(path))
        if saved.method != cls.method:
            raise ValueError(
                f"{path} holds a model of the method {saved.method!r}, expected "
                f"{cls.method!r}."
            )
        name = saved.backbone.name
        if backbone not in (None, name):
            raise ValueError(
                f"{path} holds a model with the backbone {name!r}, expected {backbone!r}."
            )
        config = config_from_dict(MODEL_CONFIGS[cls.method], saved.model)
        model = cls(Backbone(name, saved.backbone.config), config)
        state = read_state_dict(saved.weights)
        if saved.built_in_clip:
            clip = load_backbone(name).state_dict()
            state = {f"backbone.{key}": x for key, x in clip.items()} | state
        copy_weights(model, state, str(saved.weights))
        model.record = saved.record
        return model.eval()
