"""TS2-Net's head: frame cosines averaged with a softmax of themselves. Head only.

    x_abf = unit(captions_a) · unit(frames_bf),   u = x / ‖x‖ over the real frames,
    S = Σ_f x_f softmax_f(4 u).

No parameters. Token shift and token selection, which make TS2-Net what it is, happen
inside CLIP and are not here, nor is the defect of the release's masks, which comes from
the selected tokens. Source: the released code of TS2-Net (Liu et al. 2022).
"""

from torch import Tensor, einsum
from torch.nn.functional import normalize

from glscl.heads.base import Head, SentenceText
from glscl.retriever import VideoFeatures
from glscl.util.numeric import masked_softmax


class TS2Net(Head):
    """Cosines of frames, weighted by their own softmax; no shift, no selection."""

    method = "ts2net"

    def video_state(
        self, frames: Tensor, clip_frames: Tensor, mask: Tensor, fold: bool = False
    ) -> VideoFeatures:
        return VideoFeatures(normalize(frames, dim=-1), mask)

    def scores(self, text: SentenceText, video: VideoFeatures) -> Tensor:
        x = einsum("ad,bfd->abf", text.captions, video.frames)
        return (x * self._attention(x, video.mask)).sum(-1)

    def frame_weights(self, text: SentenceText, video: VideoFeatures) -> Tensor:
        x = einsum("ad,bfd->abf", text.captions, video.frames)
        return self._attention(x, video.mask)

    def _attention(self, x: Tensor, mask: Tensor) -> Tensor:
        u = normalize(x * mask, dim=-1)
        return masked_softmax(self.config.sharpness * u, mask)
