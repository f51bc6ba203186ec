"""The fast computation of GIM: ``glscl.gim.gram_form`` by blocks of videos.

Without a gradient, blocks of videos share the same memory; with one, a chunk of videos is
recomputed in the backward pass. The softmax is not normalised, since the sum of the
weights cancels in the similarity. Pairs that may have large rounding errors are found and
computed by the direct form.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from glscl.util.numeric import masked_softmax

# Numbers that one chunk of videos may hold for its inner products (chunk, F, A): one
# matrix product for each chunk, and a few large products are faster than many.
CHUNK_NUMBERS = {"cpu": 6_500_000, "other": 32_000_000}
# And those of a block, the part of a chunk for which everything else is computed: on a
# CPU a block, its weights and G w should fit into the cache of a core, which is small.
BLOCK_NUMBERS = {"cpu": 300_000, "other": CHUNK_NUMBERS["other"]}
# Pairs are doubtful where ‖Σ_f w v_f‖ is more than this many times shorter than
# Σ_f w ‖v_f‖: the frames cancel, and with them digits. See doubtful_pairs.
CANCELLING = 10.0
# And where 1 / ‖Σ_f w v_f‖ is outside these: the square may leave float32.
INVERSE_NORMS = (1e-18, 1e15)
# While exponents of the weights lie within ±this, hardly any pair (one whose exponents
# all lie near one end) leaves the range of float32, and that one is doubtful. Beyond it,
# and where a gradient is wanted, in which third powers appear, the largest exponent of
# every pair is shifted to 0 first.
MAX_EXPONENT = 44
# Numbers held at once (pairs × F × D) when doubtful pairs are computed directly.
PAIR_NUMBERS = 4_000_000


def blocked_similarity(
    captions: Tensor,
    frames: Tensor,
    frame_mask: Tensor,
    temperature: float,
    chunk: int | None,
) -> Tensor:
    """The similarity (A, B) of GIM; ``glscl.gim`` has checked the arguments.

    ``captions``: (A, D), ``frames``: (B, F, D), in float32 or float64; ``frame_mask``:
    (B, F) booleans. ``chunk``: videos taken at a time; None: see CHUNK_NUMBERS.
    """
    scaled = captions / temperature
    chunk = chunk or _videos(CHUNK_NUMBERS, captions, frames)
    gradient = torch.is_grad_enabled() and (
        captions.requires_grad or frames.requires_grad
    )
    compute = _with_gradient if gradient else _without_gradient
    projections, doubtful = compute(scaled, frames, frame_mask, chunk)
    norms = scaled.norm(dim=-1, keepdim=True).clamp_min(1e-12)  # (A, 1)
    # Into a tensor of the final layout: in one pass, where a transposed copy takes three.
    out = None if gradient else projections.new_empty(projections.shape[::-1])
    scores = torch.div(projections.T, norms, out=out)
    if len(doubtful):
        step = max(1, PAIR_NUMBERS // frames[0].numel())
        exact = [
            direct_pairs(captions[a], frames[b], frame_mask[b], temperature)
            for b, a in (pairs.T for pairs in doubtful.split(step))
        ]
        b, a = doubtful.T
        scores = scores.index_put((a, b), torch.cat(exact))
    return scores.contiguous()


def gram_matrices(frames: Tensor, frame_mask: Tensor) -> Tensor:
    """G_b = frames_b frames_bᵀ, and below it the norms ‖v_f‖: (B, F + 1, F).

    ``frames``: (B, F, D); the norm of a padded frame counts as 0.
    """
    G = frames @ frames.transpose(1, 2)
    norms = G.detach().diagonal(dim1=1, dim2=2).sqrt()
    return torch.cat([G, norms.masked_fill(~frame_mask, 0.0)[:, None]], dim=1)


def inner_products(
    captions: Tensor, frames: Tensor, frame_mask: Tensor, out: Tensor | None = None
) -> Tensor:
    """s_bfa = captions_a · frames_bf: (b, F, A), for padded frames the lowest number.

    ``captions``: (A, D), divided by τ; ``frames``: (b, F, D); ``frame_mask``: (b, F);
    ``out``: (b F, A), where to write it.
    """
    s = torch.matmul(frames.flatten(0, 1), captions.T, out=out)
    padded = (~frame_mask).flatten().nonzero().flatten()
    if len(padded):
        # The lowest finite number: times its weight, which is zero, it is zero.
        s.index_fill_(0, padded, torch.finfo(s.dtype).min)
    return s.view(*frames.shape[:2], -1)


def gram_sums(
    s: Tensor,
    gram: Tensor,
    bound: float,
    workspace: tuple[Tensor, Tensor],
    out: Sequence[Tensor],
) -> None:
    """Write the sums that give the scores of b videos; ``s`` is overwritten, no gradient.

    ``s``: (b, F, A), see ``inner_products``; ``gram``: (b, F + 1, F), see
    ``gram_matrices``; ``bound``: at least ‖captions_a‖ ‖v_f‖ of all real frames, so no
    exponent is larger. ``workspace``: memory for w (b, F, A) and G w (b, F + 1, A), as
    fresh memory costs more than the arithmetic on it. ``out``: three (b, A) for w_f of
    any scale, Σ_f w_f s_f, wᵀ G_b w = ‖pooled_ab‖², and Σ_f w_f ‖v_f‖ ≥ ‖pooled_ab‖.
    """
    w, Gw = workspace
    dot, squared_norm, norm_bound = out
    z = s
    if not bound < MAX_EXPONENT:  # only then they are read, those of padded frames too
        low, high = torch.stack(s.aminmax()).tolist()
        if not max(-low, high) < MAX_EXPONENT:
            z = torch.sub(s, s.amax(dim=1, keepdim=True), out=w)
    torch.exp(z, out=w)
    # One product for G w and, in the last row, for Σ_f w_f ‖v_f‖.
    torch.matmul(gram, w, out=Gw)
    torch.sum(s.mul_(w), dim=1, out=dot)
    torch.sum(w.mul_(Gw[:, :-1]), dim=1, out=squared_norm)
    norm_bound.copy_(Gw[:, -1])


def doubtful_pairs(inverse: Tensor, norm_bound: Tensor) -> Tensor:
    """Which pairs (b, A) have lost digits and are to be computed directly.

    ``inverse``: 1 / sqrt(``squared_norm``), NaN where rounding made the square negative.
    Rounding leaves an error of about ε norm_bound² in the square, so a score has an error
    of ε / 2 times (norm_bound · inverse)²: too much where frames nearly cancel, see
    CANCELLING. Squares outside the range of float32 say nothing, see INVERSE_NORMS.
    """
    outside = inverse.clamp(*INVERSE_NORMS) != inverse
    return (norm_bound * inverse > CANCELLING) | outside


def no_doubtful_pairs(inverse: Tensor, norm_bound: Tensor) -> bool:
    """Whether ``doubtful_pairs`` finds none, with half as many passes over the pairs."""
    found = torch.stack([*inverse.aminmax(), (norm_bound * inverse).max()])
    low, high, worst = found.tolist()
    smallest, largest = INVERSE_NORMS
    return smallest <= low and high <= largest and worst <= CANCELLING


def direct_pairs(
    captions: Tensor, frames: Tensor, frame_mask: Tensor, temperature: float
) -> Tensor:
    """The direct form for a list of N pairs: captions (N, D), frames (N, F, D)."""
    s = torch.einsum("nd,nfd->nf", captions, frames) / temperature
    w = masked_softmax(s, frame_mask)
    pooled = torch.einsum("nf,nfd->nd", w, frames)
    return (normalize(captions, dim=-1) * normalize(pooled, dim=-1)).sum(dim=-1)


def score_chunk(
    scaled: Tensor, frames: Tensor, frame_mask: Tensor, gram: Tensor
) -> tuple[Tensor, Tensor]:
    """‖scaled_a‖ · global_ab of a chunk, and which pairs are doubtful: both (b, A)."""
    s = inner_products(scaled, frames, frame_mask)
    w = torch.exp(s - s.detach().amax(dim=1, keepdim=True))
    Gw = gram @ w  # (b, F + 1, A)
    dot, squared_norm = (w * s).sum(dim=1), (w * Gw[:, :-1]).sum(dim=1)
    doubtful = doubtful_pairs(squared_norm.detach().rsqrt(), Gw[:, -1].detach())
    return dot * squared_norm.masked_fill(doubtful, 1.0).rsqrt(), doubtful


def _with_gradient(
    scaled: Tensor, frames: Tensor, frame_mask: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """‖scaled_a‖ · global_ab (B, A), and the doubtful pairs (n, 2) of video, caption."""
    gram = gram_matrices(frames, frame_mask)
    # Recomputing a chunk in the backward pass costs one matrix product; keeping the
    # weights of all chunks would cost several tensors of the size (A, B, F). With split,
    # unlike slices, the gradients of all chunks are joined in one step.
    parts = zip(*(x.split(chunk) for x in (frames, frame_mask, gram)), strict=True)
    results = [
        checkpoint(
            score_chunk, scaled, *part, use_reentrant=False, preserve_rng_state=False
        )
        for part in parts
    ]
    projections, doubtful = (torch.cat(x) for x in zip(*results, strict=True))
    return projections, doubtful.nonzero()


def _without_gradient(
    scaled: Tensor, frames: Tensor, frame_mask: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """What ``_with_gradient`` gives, by blocks of each chunk, in the same memory."""
    (B, F, _), A = frames.shape, len(scaled)
    chunk = min(chunk, B)
    size = min(chunk, _videos(BLOCK_NUMBERS, scaled, frames))
    products, scores = scaled.new_empty(chunk * F, A), scaled.new_empty(B, A)
    norms = scaled.new_empty(2, chunk, A)  # squared, and their bounds
    w, Gw = scaled.new_empty(size, F, A), scaled.new_empty(size, F + 1, A)
    longest = scaled.norm(dim=-1).max()
    doubtful = [torch.empty(0, 2, dtype=torch.long, device=frames.device)]
    for first in range(0, B, chunk):
        part, mask = frames[first : first + chunk], frame_mask[first : first + chunk]
        b = len(part)
        gram = gram_matrices(part, mask)
        s = inner_products(scaled, part, mask, products[: b * F])
        bound = float(longest * gram[:, -1].max())
        dot, (squared_norm, norm_bound) = scores[first : first + b], norms[:, :b]
        blocks = (x.split(size) for x in (s, gram, dot, squared_norm, norm_bound))
        for s_block, G_block, *out in zip(*blocks, strict=True):
            workspace = w[: len(s_block)], Gw[: len(s_block)]
            gram_sums(s_block, G_block, bound, workspace, out)
        inverse = squared_norm.rsqrt_()
        dot.mul_(inverse)
        if not no_doubtful_pairs(inverse, norm_bound):
            pairs = doubtful_pairs(inverse, norm_bound).nonzero()
            doubtful.append(pairs + pairs.new_tensor([first, 0]))
    return scores, torch.cat(doubtful)


def _videos(numbers: dict[str, int], captions: Tensor, frames: Tensor) -> int:
    """How many videos have so many numbers: (A + F) F each, s and the Gram matrix."""
    A, F = len(captions), frames.shape[1]
    device = "cpu" if frames.device.type == "cpu" else "other"
    return max(1, numbers[device] // (F * (A + F)))
