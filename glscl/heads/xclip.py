"""X-CLIP: four scores of video or frames with sentence or words, averaged. Head only.

With s, w the unit sentence and words, x the unit frames BEFORE the frame transformer, v
the mean of the unit frames after it, and the means R of ``mixed_weighted_mean``,

    video-sentence  (s M_s) · v
    video-word      R_l(w · v; W_1)
    sentence-frame  R_f(s · x; V_1)
    word-frame      z_lf = (w M_w)_l · x_f, both ways:
                    ½ (R_f(R_l(z; W_2); V_2) + R_l(R_f(z; V_3); W_3))

M (D, D), W (L, L) and V (F, F) are learnt and start as the identity. Source: the released
code of X-CLIP (Ma et al. 2022), which masks v alone: ``mask_padding=False``.
"""

from typing import NamedTuple

import torch
from torch import Tensor, einsum, nn
from torch.nn.functional import normalize

from glscl.backbone import Backbone
from glscl.config import XCLIPConfig
from glscl.heads.base import Head, unit_mean
from glscl.retriever import TextFeatures
from glscl.util.numeric import mixed_weighted_mean


class XCLIPText(NamedTuple):
    """``captions``: (A, D), s; ``tokens``: (A, L, D), w; both mapped; ``mask``: (A, L)."""

    captions: Tensor
    mapped_captions: Tensor
    tokens: Tensor
    mapped_tokens: Tensor
    mask: Tensor


class XCLIPVideo(NamedTuple):
    """``frames``: (B, F, D), x; ``videos``: (B, D), v; ``mask``: (B, F)."""

    frames: Tensor
    videos: Tensor
    mask: Tensor


class XCLIP(Head):
    """Multi-grained contrast of videos and captions."""

    method = "xclip"
    word_fields = ("tokens", "mapped_tokens", "mask")

    def __init__(self, backbone: Backbone, config: XCLIPConfig):
        super().__init__(backbone, config)
        D, L, F = backbone.embed_dim, config.max_words, config.max_frames
        self.sentence_map = nn.Parameter(torch.eye(D))
        self.word_map = nn.Parameter(torch.eye(D))
        self.word_mixes = nn.ParameterList(torch.eye(L) for _ in range(3))
        self.frame_mixes = nn.ParameterList(torch.eye(F) for _ in range(3))

    def text_state(self, text: TextFeatures, fold: bool = False) -> XCLIPText:
        s, w = normalize(text.captions, dim=-1), normalize(text.tokens, dim=-1)
        return XCLIPText(s, s @ self.sentence_map, w, w @ self.word_map, text.mask)

    def video_state(
        self, frames: Tensor, clip_frames: Tensor, mask: Tensor, fold: bool = False
    ) -> XCLIPVideo:
        x = normalize(clip_frames, dim=-1)
        return XCLIPVideo(x, unit_mean(frames, mask), mask)

    def scores(self, text: XCLIPText, video: XCLIPVideo) -> Tensor:
        x, v = video.frames, video.videos
        L, F = text.tokens.shape[1], x.shape[1]
        W = [self.mixing_matrix(mix, L, "words") for mix in self.word_mixes]
        V = [self.mixing_matrix(mix, F, "frames") for mix in self.frame_mixes]
        words, frames = text.mask[:, None], video.mask  # (A, 1, L), (B, F)
        z = einsum("ald,bfd->ablf", text.mapped_tokens, x)
        of_frames = self._mean(z.transpose(2, 3), W[1], words[:, None])  # (A, B, F)
        of_words = self._mean(z, V[2], frames[:, None])  # (A, B, L)
        both = self._mean(of_frames, V[1], frames) + self._mean(of_words, W[2], words)
        video_word = self._mean(einsum("ald,bd->abl", text.tokens, v), W[0], words)
        frame = einsum("ad,bfd->abf", text.captions, x)
        sentence_frame = self._mean(frame, V[0], frames)
        return (text.mapped_captions @ v.T + video_word + sentence_frame + both / 2) / 4

    def coarse_text(self, text: XCLIPText) -> Tensor:
        return text.mapped_captions

    def coarse_video(self, video: XCLIPVideo) -> Tensor:
        return video.videos

    def _mean(self, z: Tensor, mix: Tensor, mask: Tensor) -> Tensor:
        real = self.padding_mask(mask)
        return mixed_weighted_mean(z, mix, real, self.config.temperature)
