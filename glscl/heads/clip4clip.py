"""CLIP4Clip: the cosine of a sentence and the mean of unit frames. Head only.

    v_b = unit(mean over the real frames of unit(frames_bf)),   S = unit(captions) · v.

Without a frame transformer (``temporal_layers=0``) this is meanP, with it seqTransf; no
parameters besides. The heads of CenterCLIP, CLIP-ViP and Prompt Switch (default) are the
same. Source: the released code of CLIP4Clip (Luo et al. 2022).
"""

from typing import NamedTuple

from torch import Tensor

from glscl.heads.base import Head, SentenceText, unit_mean


class PooledVideo(NamedTuple):
    """``frames``: (B, 1, D), the mean frame, unit norm."""

    frames: Tensor


class CLIP4Clip(Head):
    """Mean pooling, with or without the sequence transformer."""

    method = "clip4clip"

    def video_state(
        self, frames: Tensor, clip_frames: Tensor, mask: Tensor, fold: bool = False
    ) -> PooledVideo:
        return PooledVideo(unit_mean(frames, mask)[:, None])

    def scores(self, text: SentenceText, video: PooledVideo) -> Tensor:
        return text.captions @ video.frames[:, 0].T

    def coarse_video(self, video: PooledVideo) -> Tensor:
        return video.frames[:, 0]
