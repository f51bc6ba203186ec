"""What is measured: features of the published size, and the model that scores them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from book.experiments.formulas import Sizes
from book.experiments.shipped_heads import stub_backbone
from glscl.config import ModelConfig
from glscl.model import GLSCL, TextFeatures, VideoFeatures

NORM = 10.0  # length of a feature, about CLIP's


class Features(NamedTuple):
    """``captions`` (A, D), ``tokens`` (A, L, D), ``frames`` (B, F, D), all real."""

    captions: Tensor
    tokens: Tensor
    frames: Tensor

    def to(self, device: torch.device | str) -> Features:
        """The same on another device."""
        return Features(*(x.to(device) for x in self))

    def text(self) -> TextFeatures:
        mask = self.tokens.new_ones(self.tokens.shape[:2], dtype=torch.bool)
        return TextFeatures(self.captions, self.tokens, mask)

    def video(self) -> VideoFeatures:
        mask = self.frames.new_ones(self.frames.shape[:2], dtype=torch.bool)
        return VideoFeatures(self.frames, mask)


def random_features(A: int, B: int, sizes: Sizes, seed: int = 0) -> Features:
    """Caption i is nearer to video i than to the others, as after training."""
    generator = torch.Generator().manual_seed(seed)
    scale = NORM / sizes.D**0.5

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, sizes.D, generator=generator)

    topic = noise(max(A, B))
    captions = topic[:A] + noise(A)
    tokens = topic[:A, None] + 2 * noise(A, sizes.L)
    frames = topic[:B, None] + 2 * noise(B, sizes.F)
    return Features(
        scale * captions / 2**0.5, scale * tokens / 5**0.5, scale * frames / 5**0.5
    )


def scoring_model(sizes: Sizes, seed: int = 0) -> GLSCL:
    """GLSCL with the published head; its towers are stubs, since none is run."""
    torch.manual_seed(seed)
    config = ModelConfig(
        temporal_layers=0,
        num_queries=sizes.Q,
        num_decoder_layers=sizes.decoder_layers,
        num_heads=sizes.H,
        mask_padding=False,
    )
    return GLSCL(stub_backbone(sizes), config).eval()
