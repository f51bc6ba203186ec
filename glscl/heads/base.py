"""What the similarity heads share: phases, masks, and the loss.

A head has three phases: once per caption (``text_state``), once per video
(``video_state``) and for every pair (``scores``). The first two are parts of the
encoders, the third is the similarity, so what is trained is what is counted and timed.
Some heads have a folded form: the same scores from tables that are made once per video.
It serves where no gradient is wanted, in evaluation mode.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from glscl.losses import info_nce
from glscl.retriever import Retriever, TextFeatures
from glscl.util.numeric import autocast_disabled, check_finite, to_common_float


class HeadLosses(NamedTuple):
    """Scalars; ``total`` is the sum of the others, which carry their weights already.

    ``constraint``: the method's second loss, 0 where it has none.
    """

    total: Tensor
    info_nce: Tensor
    constraint: Tensor


class SentenceText(NamedTuple):
    """``captions``: (A, D), sentence features."""

    captions: Tensor


class Head(Retriever):
    """A ``Retriever`` in three phases.

    Features are named tuples: of captions any tensors (A, ...), of videos (B, ...), among
    them ``frames``, whose axis before the last counts the frames.
    """

    def text_state(self, text: TextFeatures, fold: bool = False) -> Any:
        """What is computed once for each of A captions, from CLIP's features.

        ``fold``: for the folded form of ``scores``, if there is one. Here: the unit
        sentence.
        """
        return SentenceText(normalize(text.captions, dim=-1))

    @abstractmethod
    def video_state(
        self, frames: Tensor, clip_frames: Tensor, mask: Tensor, fold: bool = False
    ) -> Any:
        """What is computed once for each of B videos.

        ``frames``: (B, F, D) after the frame transformer, ``clip_frames``: before it,
        ``mask``: (B, F), ``fold`` as in ``text_state``.
        """

    @abstractmethod
    def scores(self, text: Any, video: Any) -> Tensor:
        """The score of every pair, from both states: (A, B)."""

    def constraint(self, text: Any, video: Any) -> Tensor:
        """The method's second loss of a batch of pairs, with its weight: a scalar."""
        return text[0].new_zeros(())

    def encode_text(self, token_ids: Tensor, token_mask: Tensor) -> Any:
        captions, tokens, mask, _ = super().encode_text(token_ids, token_mask)
        with autocast_disabled(captions):
            captions, tokens = to_common_float(captions, tokens)
            text = TextFeatures(captions, tokens, mask)
            return self.text_state(text, self._folds())

    def encode_video_features(self, frame_features: Tensor, frame_mask: Tensor) -> Any:
        """``video_state`` from what ``encode_frames`` gave: (B, F, D).

        Folded in evaluation mode where gradients are off.
        """
        frames, mask, _ = super().encode_video_features(frame_features, frame_mask)
        clip_frames = self._divide_gradient(frame_features)
        with autocast_disabled(frames):
            frames, clip_frames = to_common_float(frames, clip_frames)
            return self.video_state(frames, clip_frames, mask, self._folds())

    def similarity(self, text: Any, video: Any) -> Tensor:
        """The score of every caption and video: (A, B), by chunks of videos.

        Raises ``ValueError`` for features that are not finite.
        """
        A, D = len(text[0]), self.backbone.embed_dim
        L = text.mask.shape[1] if self.word_fields else 1
        elements = A * (L * video.frames.shape[-2] + D)
        scores = self._by_chunks(lambda part: self.scores(text, part), video, elements)
        check_finite(scores, captions=text[0], frames=video.frames)
        return scores

    def loss(self, text: Any, video: Any) -> HeadLosses:
        """InfoNCE and the method's own constraint of a batch: row i of both is a pair."""
        contrastive = info_nce(self.kappa * self.similarity(text, video))
        with autocast_disabled(video.frames):
            constraint = self.constraint(text, video)
        return HeadLosses(contrastive + constraint, contrastive, constraint)

    def _folds(self) -> bool:
        return not (self.training or torch.is_grad_enabled())


def small_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with weights N(0, .02) and biases 0."""
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear


def unit_mean(frames: Tensor, mask: Tensor) -> Tensor:
    """unit(mean of the unit real frames): (B, F, D) and (B, F) to (B, D)."""
    unit = normalize(frames, dim=-1) * mask[..., None]
    return normalize(unit.sum(1) / mask.sum(1, keepdim=True), dim=-1)
