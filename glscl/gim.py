"""Global Interaction Module (GIM): a caption chooses the frames it is compared with.

No parameters. With features that are not normalised and a temperature τ,

    w_abf = softmax_f(captions_a · frames_bf / τ) over the real frames of video b,
    pooled_ab = Σ_f w_abf frames_bf,
    global_ab = unit(captions_a) · unit(pooled_ab).

Source: GLSCL (arXiv 2405.12710), Global Interaction Module, as released.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from glscl.util.numeric import full, full_precision, real_positions, refuse_non_finite
from glscl.util.shapes import check_shape

# Numbers that one chunk of videos may hold for its inner products (chunk, F, A): one
# matrix product each, and few, large products win.
CHUNK_NUMBERS = {"cpu": 6_500_000, "other": 32_000_000}
# And those that are worked on at a time after it: on a CPU a block, its weights and G w
# should stay in the cache of a core, which is small.
BLOCK_NUMBERS = {"cpu": 300_000, "other": CHUNK_NUMBERS["other"]}
# Where ‖Σ_f w v_f‖ is this many times shorter than Σ_f w ‖v_f‖, the frames cancel and
# the Gram form has lost digits: those pairs are computed directly. See doubtful_pairs.
CANCELLING = 10.0
# And so are pairs whose 1 / ‖Σ_f w v_f‖ is outside: the square may leave float32.
INVERSE_LENGTHS = (1e-18, 1e15)
# While exponents of the weights lie within ±this, hardly any pair (one whose exponents
# all lie near one end) leaves the range of float32, and that one is computed directly.
# Beyond it, and where a gradient is wanted, in which third powers appear, the largest
# exponent of every pair is shifted to 0 first.
MAX_EXPONENT = 44
# Numbers held at once (pairs × F × D) when such pairs are computed directly.
PAIR_NUMBERS = 4_000_000


def frame_weights(
    captions: Tensor, frames: Tensor, frame_mask: Tensor, temperature: float = 3.0
) -> Tensor:
    """How much each caption listens to each frame: w (A, B, F), summing to 1 over f.

    ``captions``: (A, D), ``frames``: (B, F, D), ``frame_mask``: (B, F), True = real.
    Padded frames weigh exactly 0. Computed in float32 or better.

    Raises ``ValueError`` for sizes that do not fit, a mask row without a real frame, a
    temperature that is not positive, and features that are not finite.
    """
    captions, frames, frame_mask = _checked(captions, frames, frame_mask, temperature)
    with full_precision(frames):
        weights = _weights(captions, frames, frame_mask, temperature)
    refuse_non_finite(weights.sum(dim=-1), captions=captions, frames=frames)
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
    better, under autocast too.

    Raises ``ValueError`` for sizes that do not fit, a mask row without a real frame, a
    temperature that is not positive, and features that are not finite.
    """
    captions, frames, frame_mask = _checked(captions, frames, frame_mask, temperature)
    if method not in ("gram", "direct"):
        raise ValueError(f"method must be 'gram' or 'direct', got {method!r}.")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1 video, got {chunk}.")
    if chunk is None:
        B = len(frames)
        chunk = B if method == "direct" else _videos(CHUNK_NUMBERS, captions, frames)
    with full_precision(frames):
        if method == "direct":
            parts = zip(frames.split(chunk), frame_mask.split(chunk), strict=True)
            scores = torch.cat(
                [_direct_scores(captions, v, m, temperature) for v, m in parts], dim=1
            )
        else:
            scores = _gram_similarity(captions, frames, frame_mask, temperature, chunk)
    refuse_non_finite(scores, captions=captions, frames=frames)
    return scores


def mean_similarity(captions: Tensor, frames: Tensor, frame_mask: Tensor) -> Tensor:
    """Similarity (A, B) with the plain mean of the real frames: GIM at τ → ∞.

    The baseline that GIM is compared with: ``unit(captions_a) · unit(mean_f frames_bf)``.
    Arguments and errors as in ``global_similarity``.
    """
    captions, frames, frame_mask = _checked(captions, frames, frame_mask, 1.0)
    with full_precision(frames):
        real = frames.masked_fill(~frame_mask[:, :, None], 0.0)  # (B, F, D)
        pooled = real.sum(dim=1) / frame_mask.sum(dim=1, keepdim=True)  # (B, D)
        scores = normalize(captions, dim=-1) @ normalize(pooled, dim=-1).T
    refuse_non_finite(scores, captions=captions, frames=frames)
    return scores


class GramSums(NamedTuple):
    """What GIM needs to know of every pair, each (b, A), for weights w_f of any scale.

    ``along``: Σ_f w_f s_f = ‖captions_a‖ unit(captions_a) · pooled_ab,
    ``square``: wᵀ G_b w = ‖pooled_ab‖², ``spread``: Σ_f w_f ‖v_f‖ ≥ ‖pooled_ab‖.
    """

    along: Tensor
    square: Tensor
    spread: Tensor


def gram_matrices(frames: Tensor, frame_mask: Tensor) -> Tensor:
    """G_b = frames_b frames_bᵀ, and below it the lengths ‖v_f‖: (B, F + 1, F).

    ``frames``: (B, F, D); the length of a padded frame is 0.
    """
    G = frames @ frames.transpose(1, 2)
    lengths = G.detach().diagonal(dim1=1, dim2=2).sqrt()
    return torch.cat([G, lengths.masked_fill(~frame_mask, 0.0)[:, None]], dim=1)


def inner_products(
    captions: Tensor, frames: Tensor, frame_mask: Tensor, out: Tensor | None = None
) -> Tensor:
    """s_bfa = captions_a · frames_bf: (b, F, A), for padded frames the lowest number.

    ``captions``: (A, D), divided by τ; ``frames``: (b, F, D); ``frame_mask``: (b, F).
    ``out``: (b F, A), where to write it.
    """
    b, F, D = frames.shape
    s = torch.matmul(frames.reshape(b * F, D), captions.T, out=out)
    padded = (~frame_mask).flatten().nonzero().flatten()
    if len(padded):
        # The lowest finite number: times its weight, which is zero, it is zero.
        s.index_fill_(0, padded, torch.finfo(s.dtype).min)
    return s.view(b, F, -1)


def gram_sums(
    s: Tensor,
    gram: Tensor,
    shifted: bool = True,
    room: tuple[Tensor, Tensor] | None = None,
    out: GramSums | None = None,
) -> GramSums:
    """GIM of b videos from inner products only.

    ``s``: (b, F, A), see ``inner_products``: the length of a caption drops out of the
    similarity. ``gram``: (b, F + 1, F), see ``gram_matrices``. With the Gram matrix
    G_b = frames_b frames_bᵀ,

        global_ab = (w · s) / (‖captions_a‖ sqrt(wᵀ G_b w)),

    in which a factor of w drops out, so the softmax is not normalised. ``shifted``:
    whether the largest s_f of a pair is subtracted from its exponents, see
    MAX_EXPONENT. Per pair FD + F² + 2F multiply-adds instead of 2FD + D.

    ``room`` and ``out``, given together where no gradient needs what they hold: memory
    for w (b, F, A) and G w (b, F + 1, A), and for the sums; fresh memory costs more than
    the arithmetic on it. ``s`` is then overwritten.
    """
    w_room, Gw_room = (None, None) if room is None else room
    z = torch.sub(s, s.detach().amax(dim=1, keepdim=True), out=w_room) if shifted else s
    w = torch.exp(z, out=w_room)
    # One product for G w and, in the last row, for Σ_f w_f ‖v_f‖.
    Gw = torch.matmul(gram, w, out=Gw_room)  # (b, F + 1, A)
    if out is None:
        return GramSums(
            (w * s).sum(dim=1), (w * Gw[:, :-1]).sum(dim=1), Gw[:, -1].detach()
        )
    torch.sum(s.mul_(w), dim=1, out=out.along)
    torch.sum(w.mul_(Gw[:, :-1]), dim=1, out=out.square)
    out.spread.copy_(Gw[:, -1])
    return out


def _gram_similarity(
    captions: Tensor,
    frames: Tensor,
    frame_mask: Tensor,
    temperature: float,
    chunk: int,
) -> Tensor:
    """``gram_sums`` by chunks, doubtful pairs replaced: (A, B)."""
    scaled = captions / temperature
    wanted = torch.is_grad_enabled() and (
        captions.requires_grad or frames.requires_grad
    )
    form = _with_gradient if wanted else _without_gradient
    along, doubtful = form(scaled, frames, frame_mask, chunk)
    lengths = scaled.norm(dim=-1, keepdim=True).clamp_min(1e-12)  # (A, 1)
    # Into a tensor of the final layout: in one pass, where a transposed copy takes three.
    into = None if wanted else along.new_empty(along.shape[::-1])
    scores = torch.div(along.T, lengths, out=into)
    if len(doubtful):
        step = max(1, PAIR_NUMBERS // frames[0].numel())
        exact = [
            _direct_pairs(captions[a], frames[b], frame_mask[b], temperature)
            for b, a in (pairs.T for pairs in doubtful.split(step))
        ]
        b, a = doubtful.T
        scores = scores.index_put((a, b), torch.cat(exact))
    return scores.contiguous()


def _with_gradient(
    scaled: Tensor, frames: Tensor, frame_mask: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """‖captions_a‖ · global_ab (B, A), and the doubtful pairs (n, 2) of video, caption."""
    gram = gram_matrices(frames, frame_mask)
    # Recomputing a chunk in the backward pass costs one matrix product; keeping its
    # weights for all chunks would cost several tensors of the size (A, B, F). And split,
    # unlike slices, gathers the gradient of all chunks in one step.
    parts = zip(*(x.split(chunk) for x in (frames, frame_mask, gram)), strict=True)
    results = [
        checkpoint(
            _finished, scaled, *part, use_reentrant=False, preserve_rng_state=False
        )
        for part in parts
    ]
    along, doubtful = (torch.cat(x) for x in zip(*results, strict=True))
    return along, doubtful.nonzero()


def _without_gradient(
    scaled: Tensor, frames: Tensor, frame_mask: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """What ``_with_gradient`` gives, by blocks of each chunk, in the same memory."""
    (B, F, _), A = frames.shape, len(scaled)
    chunk = min(chunk, B)
    size = min(chunk, _videos(BLOCK_NUMBERS, scaled, frames))
    s_room, along = scaled.new_empty(chunk * F, A), scaled.new_empty(B, A)
    square, spread = scaled.new_empty(2, chunk, A)
    w, Gw = scaled.new_empty(size, F, A), scaled.new_empty(size, F + 1, A)
    longest = scaled.norm(dim=-1).max()
    doubtful = [torch.empty(0, 2, dtype=torch.long, device=frames.device)]
    for first in range(0, B, chunk):
        part, mask = frames[first : first + chunk], frame_mask[first : first + chunk]
        b = len(part)
        gram = gram_matrices(part, mask)
        s = inner_products(scaled, part, mask, s_room[: b * F])
        bound = float(longest * gram[:, -1].max())
        sums = GramSums(along[first : first + b], square[:b], spread[:b])
        blocks = (x.split(size) for x in (s, gram, *sums))
        for s_block, G_block, *out in zip(*blocks, strict=True):
            room = w[: len(s_block)], Gw[: len(s_block)]
            shifted = _far(s_block, bound)
            gram_sums(s_block, G_block, shifted, room, GramSums(*out))
        inverse = sums.square.rsqrt_()
        sums.along.mul_(inverse)
        if not _all_trusted(inverse, sums.spread):
            pairs = doubtful_pairs(inverse, sums.spread).nonzero()
            doubtful.append(pairs + pairs.new_tensor([first, 0]))
    return along, torch.cat(doubtful)


def _far(s: Tensor, bound: float) -> bool:
    """Whether exponents leave ±MAX_EXPONENT, as padded frames do where one must look.

    ``bound``: lengths say that |s| of real frames is no more, so that none need look.
    """
    if bound < MAX_EXPONENT:
        return False
    low, high = torch.stack(s.aminmax()).tolist()
    return not max(-low, high) < MAX_EXPONENT


def _finished(
    scaled: Tensor, frames: Tensor, frame_mask: Tensor, gram: Tensor
) -> tuple[Tensor, Tensor]:
    """‖captions_a‖ · global_ab of a chunk, and which are not to be believed: (b, A)."""
    sums = gram_sums(inner_products(scaled, frames, frame_mask), gram)
    doubtful = doubtful_pairs(sums.square.detach().rsqrt(), sums.spread)
    return sums.along * sums.square.masked_fill(doubtful, 1.0).rsqrt(), doubtful


def doubtful_pairs(inverse: Tensor, spread: Tensor) -> Tensor:
    """Which pairs (b, A) have lost digits and are to be computed directly.

    ``inverse``: 1 / sqrt(``square``), not a number where rounding made the square
    negative. Rounding leaves an error of about ε spread² in the square, so a score is
    good to ε / 2 times (spread · inverse)²: too little where frames nearly cancel, see
    CANCELLING. And nothing is known where squares leave the range of float32.
    """
    return (spread * inverse > CANCELLING) | (
        inverse.clamp(*INVERSE_LENGTHS) != inverse
    )


def _all_trusted(inverse: Tensor, spread: Tensor) -> bool:
    """Whether none is among ``doubtful_pairs``, found in half their passes."""
    found = torch.stack([*inverse.aminmax(), (spread * inverse).max()])
    low, high, worst = found.tolist()
    shortest, longest = INVERSE_LENGTHS
    return shortest <= low and high <= longest and worst <= CANCELLING


def _weights(
    captions: Tensor, frames: Tensor, frame_mask: Tensor, temperature: float
) -> Tensor:
    # s_abf = Σ_d captions_ad frames_bfd
    s = torch.einsum("ad,bfd->abf", captions, frames)
    s = (s / temperature).masked_fill(~frame_mask, float("-inf"))
    return s.softmax(dim=-1)


def _direct_scores(
    captions: Tensor, frames: Tensor, frame_mask: Tensor, temperature: float
) -> Tensor:
    w = _weights(captions, frames, frame_mask, temperature)
    # pooled_abd = Σ_f w_abf frames_bfd
    pooled = torch.einsum("abf,bfd->abd", w, frames)
    return torch.einsum(
        "ad,abd->ab", normalize(captions, dim=-1), normalize(pooled, dim=-1)
    )


def _direct_pairs(
    captions: Tensor, frames: Tensor, frame_mask: Tensor, temperature: float
) -> Tensor:
    """The direct form for a list of N pairs: captions (N, D), frames (N, F, D)."""
    s = torch.einsum("nd,nfd->nf", captions, frames) / temperature
    w = s.masked_fill(~frame_mask, float("-inf")).softmax(dim=-1)
    pooled = torch.einsum("nf,nfd->nd", w, frames)
    return (normalize(captions, dim=-1) * normalize(pooled, dim=-1)).sum(dim=-1)


def _videos(numbers: dict[str, int], captions: Tensor, frames: Tensor) -> int:
    """How many videos have so many numbers: (A + F) F each, s and the Gram matrix."""
    A, F = len(captions), frames.shape[1]
    device = "cpu" if frames.device.type == "cpu" else "other"
    return max(1, numbers[device] // (F * (A + F)))


def _checked(
    captions: Tensor, frames: Tensor, frame_mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The three tensors in one dtype (float32 or better) and a boolean mask."""
    D = check_shape(captions, "A D", "captions")["D"]
    sizes = check_shape(frames, "B F D", "frames", D=D)
    frame_mask = real_positions(
        frame_mask, "B F", "frame_mask", "video", B=sizes["B"], F=sizes["F"]
    )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}.")
    captions, frames = full(captions, frames)
    return captions, frames, frame_mask
