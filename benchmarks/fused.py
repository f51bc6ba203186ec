"""GIM with the arithmetic of a pair in one kernel, made by ``torch.compile``.

How much time the package could save with it, and for how many pairs compiling takes
less time than it saves.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch._inductor.exc import InductorError, TritonMissing
from torch._inductor.utils import fresh_cache

from glscl.gim import global_similarity
from glscl.util.gram_blocks import CANCELLING, gram_matrices, inner_products

Kernel = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
VIDEOS = 500  # of a chunk: a kernel is compiled for one size


def pair_scores(s: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """‖captions_a‖ · global_ab and Σ_f w_f ‖v_f‖ / ‖Σ_f w_f v_f‖, both (b, A).

    ``s``: (b, F, A) and ``gram``: (b, F + 1, F) as in ``gram_blocks``. Written frame by
    frame, which a compiler turns into one pass over ``s``.
    """
    w = [s_f.exp() for s_f in s.unbind(1)]
    dot = half = norm_bound = torch.zeros(())
    for f, s_f in enumerate(s.unbind(1)):
        dot = dot + w[f] * s_f
        # G is symmetric: what lies left of its diagonal, and half of the diagonal.
        row = 0.5 * gram[:, f, f, None] * w[f]
        for g in range(f):
            row = row + gram[:, f, g, None] * w[g]
        half = half + w[f] * row
        norm_bound = norm_bound + gram[:, -1, f, None] * w[f]
    inverse = (2 * half).rsqrt()
    return dot * inverse, norm_bound * inverse


@torch.no_grad()
def fused_similarity(
    captions: Tensor,
    frames: Tensor,
    kernel: Kernel = pair_scores,
    temperature: float = 3.0,
) -> Tensor:
    """``global_similarity`` (A, B) of ``captions`` (A, D) and ``frames`` (B, F, D).

    All frames are real, and exponents must lie within ±MAX_EXPONENT of
    ``glscl.util.gram_blocks``, which is not checked: this code is for measuring. When
    frames cancel, ``global_similarity`` computes all scores.
    """
    (B, F, _), A = frames.shape, len(captions)
    real = torch.ones(B, F, dtype=torch.bool, device=frames.device)
    scaled = captions / temperature
    norms = scaled.norm(dim=-1)
    scores = captions.new_empty(A, B)
    workspace = captions.new_empty(min(B, VIDEOS) * F, A)
    parts = zip(*(x.split(VIDEOS) for x in (frames, real, scores.T)), strict=True)
    for video, mask, out in parts:
        s = inner_products(scaled, video, mask, workspace[: len(video) * F])
        projections, cancellation = kernel(s, gram_matrices(video, mask))
        if not float(cancellation.max()) <= CANCELLING:
            return global_similarity(captions, frames, real, temperature)
        torch.div(projections, norms, out=out)
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
