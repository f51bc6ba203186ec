"""The frame transformer ("seqTransf"): self-attention among the frames of a video.

    frames = x + T(x + pos[:F]), padded frames masked as keys (−10⁶ added to their scores).

T is a stack of pre-LN residual blocks with QuickGELU, initialised with the first blocks
of CLIP's text transformer; ``pos`` is initialised with its positional embedding.

Source: CLIP4Clip (seqTransf), as GLSCL, EERCF and GLCCL use it.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from glscl.util.numeric import to_common_float
from glscl.util.shapes import check_shape

# CLIP uses 1e-5; the released frame transformer was trained with this one.
NORM_EPS = 1e-12
PADDING_SCORE = -1e6


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), the activation of OpenAI's CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A pre-LN residual block; its parameters have CLIP's names."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(dim, 4 * dim),
                gelu=QuickGELU(),
                c_proj=nn.Linear(4 * dim, dim),
            )
        )
        self.ln_2 = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """``x``: (B, F, D); ``padding``: (B, F), added to the scores of each key."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, key_padding_mask=padding, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class FrameTransformer(nn.Module):
    """``num_layers`` blocks over up to ``max_positions`` frames of D = ``dim`` channels."""

    def __init__(
        self, dim: int, num_heads: int, num_layers: int = 4, max_positions: int = 77
    ):
        super().__init__()
        self.positions = nn.Parameter(0.01 * torch.randn(max_positions, dim))
        self.resblocks = nn.ModuleList(Block(dim, num_heads) for _ in range(num_layers))

    def forward(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """Frames after self-attention within their video: (B, F, D) to (B, F, D).

        ``frame_mask``: (B, F), True = real. No frame attends to padded frames; the
        outputs of padded frames are meaningless and must not be used.

        Raises ``ValueError`` for sizes that do not fit and for more frames than there
        are positions.
        """
        positions, D = self.positions.shape
        B, F, _ = check_shape(frames, "B F D", "frames", D=D).values()
        check_shape(frame_mask, "B F", "frame_mask", B=B, F=F)
        if positions < F:
            raise ValueError(
                f"frames: axis 1 (F) may have at most {positions} frames, one for each "
                f"position of the frame transformer, got {F}."
            )
        # Float32 at least: the score of a padded key does not fit into float16.
        padding = torch.zeros_like(to_common_float(frames)[0][..., 0])
        padding = padding.masked_fill(~frame_mask.bool(), PADDING_SCORE)
        x = frames + self.positions[:F]
        for block in self.resblocks:
            x = block(x, padding)
        return frames + x

    @torch.no_grad()
    def copy_from_text(self, text_blocks: nn.ModuleList, positions: Tensor) -> None:
        """Initialise with CLIP's text transformer: its first blocks and its positions.

        ``text_blocks``: residual blocks with CLIP's parameter names; where there are
        fewer than here, the last blocks here keep their random weights. ``positions``:
        (context length, D). Raises ``ValueError`` when the widths differ.
        """
        N, D = self.positions.shape
        check_shape(positions, "N D", "CLIP's positional embedding", N=N, D=D)
        self.positions.copy_(positions)
        for block, text_block in zip(self.resblocks, text_blocks, strict=False):
            block.load_state_dict(text_block.state_dict())
