"""Global Interaction Module (GIM): a video is pooled separately for every caption.

No parameters. With features that are not normalised and a temperature τ,

    w_abf = softmax_f(captions_a · frames_bf / τ) over the real frames of video b,
    pooled_ab = Σ_f w_abf frames_bf,
    global_ab = unit(captions_a) · unit(pooled_ab).

Source: GLSCL (arXiv 2405.12710), Global Interaction Module, as released.

Where a feature requires a gradient, ``global_similarity(method="gram")`` recomputes chunks
of videos in the backward pass, which saves memory; otherwise it computes blocks of videos
in place, which saves time (``glscl.util.gram_blocks``). Both ways agree up to rounding
(tests compare them in float64), so the last digits of a score may differ.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from glscl.util.gram_blocks import blocked_similarity
from glscl.util.numeric import (
    autocast_disabled,
    check_finite,
    masked_softmax,
    to_common_float,
    validate_mask,
)
from glscl.util.settings import check
from glscl.util.shapes import check_shape


def _weights(
    captions: Tensor, frames: Tensor, frame_mask: Tensor, temperature: float
) -> Tensor:
    # s_abf = Σ_d captions_ad frames_bfd
    s = torch.einsum("ad,bfd->abf", captions, frames)
    return masked_softmax(s / temperature, frame_mask)


def _direct_form(
    captions: Tensor, frames: Tensor, frame_mask: Tensor, temperature: float
) -> Tensor:
    w = _weights(captions, frames, frame_mask, temperature)
    # pooled_abd = Σ_f w_abf frames_bfd
    pooled = torch.einsum("abf,bfd->abd", w, frames)
    caption, video = normalize(captions, dim=-1), normalize(pooled, dim=-1)
    return torch.einsum("ad,abd->ab", caption, video)


def gram_form(
    captions: Tensor, frames: Tensor, frame_mask: Tensor, temperature: float = 3.0
) -> Tensor:
    """The Gram form as it is written, (A, B): GIM without the pooled videos.

    With s_f = captions_a · frames_bf and the Gram matrix G_b = frames_b frames_bᵀ,

        global_ab = Σ_f w_f s_f / (‖captions_a‖ sqrt(Σ_f w_f (G_b w)_f)),

    F D + F² + 2 F multiply-adds for a pair instead of 2 F D + D. ``frame_mask``: (B, F)
    booleans, the rest as in ``global_similarity``, which computes the same by blocks and
    also handles frames that cancel and captions of length zero, where this form fails.
    """
    s = torch.einsum("ad,bfd->abf", captions, frames)
    w = masked_softmax(s / temperature, frame_mask)
    G = torch.einsum("bfd,bgd->bfg", frames, frames)
    Gw = torch.einsum("bfg,abg->abf", G, w)
    dot = torch.einsum("abf,abf->ab", w, s)
    squared_norm = torch.einsum("abf,abf->ab", w, Gw)
    return dot / (captions.norm(dim=-1)[:, None] * squared_norm.sqrt())


def frame_weights(
    captions: Tensor, frames: Tensor, frame_mask: Tensor, temperature: float = 3.0
) -> Tensor:
    """The weight of each frame for each caption: w (A, B, F), summing to 1 over f.

    The weight of a padded frame is exactly 0. Computed in float32 or better. Arguments
    and errors as in ``global_similarity``.
    """
    captions, frames, frame_mask = _checked(captions, frames, frame_mask, temperature)
    with autocast_disabled(frames):
        weights = _weights(captions, frames, frame_mask, temperature)
    check_finite(weights.sum(dim=-1), captions=captions, frames=frames)
    return weights


def global_similarity(
    captions: Tensor,
    frames: Tensor,
    frame_mask: Tensor,
    temperature: float = 3.0,
    method: Literal["gram", "direct"] = "gram",
    chunk: int | None = None,
) -> Tensor:
    """Similarity of every caption with every video, pooled for that caption: (A, B).

    ``captions``: (A, D), ``frames``: (B, F, D), ``frame_mask``: (B, F), True = real.
    ``method``: ``"gram"`` never builds the (A, B, D) pooled videos and, when a gradient
    is wanted, keeps nothing of the size (A, B, F) either; ``"direct"`` is the equation
    as it stands. Both are exact. ``chunk``: videos taken at a time; left out, ``"gram"``
    picks what fits the cache and ``"direct"`` takes all at once.

    Values lie in [−1, 1]; a feature of length zero scores 0. Computed in float32 or
    better, under autocast too. Raises ``ValueError`` for sizes that do not fit, a mask
    row without a real frame, a temperature that is not positive, and features that are
    not finite.
    """
    captions, frames, frame_mask = _checked(captions, frames, frame_mask, temperature)
    check(Literal["gram", "direct"], method, "method")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1 video, got {chunk}.")
    with autocast_disabled(frames):
        if method == "gram":
            scores = blocked_similarity(
                captions, frames, frame_mask, temperature, chunk
            )
        else:
            size = chunk or len(frames)
            parts = zip(frames.split(size), frame_mask.split(size), strict=True)
            chunks = [_direct_form(captions, *part, temperature) for part in parts]
            scores = torch.cat(chunks, dim=1)
    check_finite(scores, captions=captions, frames=frames)
    return scores


def mean_similarity(captions: Tensor, frames: Tensor, frame_mask: Tensor) -> Tensor:
    """Similarity (A, B) with the plain mean of the real frames: GIM at τ → ∞.

    The baseline that GIM is compared with: ``unit(captions_a) · unit(mean_f frames_bf)``.
    Arguments and errors as in ``global_similarity``.
    """
    captions, frames, frame_mask = _checked(captions, frames, frame_mask, 1.0)
    with autocast_disabled(frames):
        real = frames.masked_fill(~frame_mask[:, :, None], 0.0)  # (B, F, D)
        pooled = real.sum(dim=1) / frame_mask.sum(dim=1, keepdim=True)  # (B, D)
        scores = normalize(captions, dim=-1) @ normalize(pooled, dim=-1).T
    check_finite(scores, captions=captions, frames=frames)
    return scores


def _checked(
    captions: Tensor, frames: Tensor, frame_mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The three tensors in one dtype (float32 or better) and a boolean mask."""
    D = check_shape(captions, "A D", "captions")["D"]
    B, F, _ = check_shape(frames, "B F D", "frames", D=D).values()
    frame_mask = validate_mask(frame_mask, "B F", "frame_mask", "video", B=B, F=F)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}.")
    captions, frames = to_common_float(captions, frames)
    return captions, frames, frame_mask
