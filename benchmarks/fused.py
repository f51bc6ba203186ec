"""GIM with the arithmetic of a pair in one kernel, made by ``torch.compile``.

What the package could gain by it, and after how many pairs that pays for compiling.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch._inductor.exc import InductorError, TritonMissing
from torch._inductor.utils import fresh_cache

from glscl.gim import CANCELLING, global_similarity, gram_matrices, inner_products

Kernel = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
VIDEOS = 500  # of a chunk: a kernel is compiled for one size


def pair_scores(s: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """‖captions_a‖ · global_ab and Σ_f w_f ‖v_f‖ / ‖Σ_f w_f v_f‖, both (b, A).

    ``s``: (b, F, A) and ``gram``: (b, F + 1, F) as in ``glscl.gim``. Written frame by
    frame, which a compiler turns into one pass over ``s``.
    """
    w = [s_f.exp() for s_f in s.unbind(1)]
    along = half = spread = torch.zeros(())
    for f, s_f in enumerate(s.unbind(1)):
        along = along + w[f] * s_f
        # G is symmetric: what lies left of its diagonal, and half of the diagonal.
        row = 0.5 * gram[:, f, f, None] * w[f]
        for g in range(f):
            row = row + gram[:, f, g, None] * w[g]
        half = half + w[f] * row
        spread = spread + gram[:, -1, f, None] * w[f]
    inverse = (2 * half).rsqrt()
    return along * inverse, spread * inverse


@torch.no_grad()
def fused_similarity(
    captions: Tensor,
    frames: Tensor,
    kernel: Kernel = pair_scores,
    temperature: float = 3.0,
) -> Tensor:
    """``global_similarity`` (A, B) of ``captions`` (A, D) and ``frames`` (B, F, D).

    All frames are real, and exponents must lie within ±MAX_EXPONENT of ``glscl.gim``:
    this measures, it does not look. Frames that cancel are handed over.
    """
    (B, F, _), A = frames.shape, len(captions)
    real = torch.ones(B, F, dtype=torch.bool, device=frames.device)
    scaled = captions / temperature
    lengths = scaled.norm(dim=-1)
    scores = captions.new_empty(A, B)
    room = captions.new_empty(min(B, VIDEOS) * F, A)
    parts = zip(*(x.split(VIDEOS) for x in (frames, real, scores.T)), strict=True)
    for video, mask, out in parts:
        s = inner_products(scaled, video, mask, room[: len(video) * F])
        along, spread = kernel(s, gram_matrices(video, mask))
        if not float(spread.max()) <= CANCELLING:
            return global_similarity(captions, frames, real, temperature)
        torch.div(along, lengths, out=out)
    return scores


def compile_for(captions: Tensor, frames: Tensor) -> tuple[Kernel, float] | None:
    """The kernel for these sizes, (A, D) and (B, F, D), and the seconds of its first run.

    Nothing is kept from before. None where there is no compiler.
    """
    kernel = torch.compile(pair_scores, dynamic=False)
    torch.compiler.reset()
    begin = time.perf_counter()
    try:
        with fresh_cache():
            fused_similarity(captions, frames, kernel)
    except (InductorError, TritonMissing):
        return None
    return kernel, time.perf_counter() - begin
