"""Global Interaction Module (GIM): a caption chooses the frames it is compared with.

No parameters. With features that are not normalised and a temperature τ,

    w_abf = softmax_f(captions_a · frames_bf / τ) over the real frames of video b,
    pooled_ab = Σ_f w_abf frames_bf,
    global_ab = unit(captions_a) · unit(pooled_ab).

Source: GLSCL (arXiv 2405.12710), Global Interaction Module, as released.
"""

from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from glscl.numeric import full, full_precision, real_positions, refuse_non_finite
from glscl.shapes import check_shape

# Numbers that one chunk of videos may hold for each of its intermediate tensors: on a
# CPU they should stay in cache, on an accelerator fewer, larger launches win.
CHUNK_NUMBERS = {"cpu": 2_000_000, "other": 32_000_000}
# Where ‖Σ_f w v_f‖ is this many times shorter than Σ_f w ‖v_f‖, the frames cancel and
# the Gram form has lost digits: those pairs are computed directly. See doubtful_pairs.
CANCELLING = 10.0
# And so are pairs whose 1 / ‖Σ_f w v_f‖ is outside: the square may leave float32.
INVERSE_LENGTHS = (1e-18, 1e15)
# The lengths of captions and frames bound the exponents of the weights. Below this bound
# hardly any pair (one with a cosine near 1) leaves the range of float32, and that one is
# computed directly. Above it, and where a gradient is wanted, in which third powers
# appear, the largest exponent of every pair is shifted to 0 first.
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
    B, F, _ = frames.shape
    if chunk is None:
        chunk = B if method == "direct" else _chunk_size(len(captions), F, frames)
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


def gram_sums(
    captions: Tensor,
    frames: Tensor,
    gram: Tensor,
    frame_mask: Tensor,
    shifted: bool = True,
    room: Tensor | None = None,
    out: tuple[Tensor, Tensor] | None = None,
) -> GramSums:
    """GIM of b videos from inner products only.

    ``captions``: (A, D), divided by τ: the length of a caption drops out of the
    similarity. ``gram``: (b, F + 1, F), see ``gram_matrices``.

    With s_f = captions_a · frames_bf and the Gram matrix G_b = frames_b frames_bᵀ,

        global_ab = (w · s) / (‖captions_a‖ sqrt(wᵀ G_b w)),

    in which a factor of w drops out, so the softmax is not normalised. ``shifted``:
    whether the largest s_f of a pair is subtracted from its exponents, see
    MAX_EXPONENT. Per pair FD + F² + 2F multiply-adds instead of 2FD + D.

    ``room``: two buffers (2, at least b (F + 1), A) to work in, and ``out``: two
    (b, A) for ``along`` and ``square``, where no gradient needs what they hold; fresh
    memory for every chunk costs more than the arithmetic on it. ``spread`` then lies in
    ``room``.
    """
    b, F, D = frames.shape
    s_room = w_room = Gw_room = None
    if room is not None:
        s_room, w_room = room[0, : b * F], room[1, : b * F].view(b, F, -1)
        Gw_room = room[0, : b * (F + 1)].view(b, F + 1, -1)
    along_out, square_out = (None, None) if out is None else out
    # All of it in the layout (b, F, A): one matrix product, then sums over an outer
    # axis, on a chunk that stays in cache.
    s = torch.matmul(frames.reshape(b * F, D), captions.T, out=s_room)
    padded = (~frame_mask).flatten().nonzero().flatten()
    if len(padded):
        # The lowest finite number: times its weight, which is zero, it is zero.
        s.index_fill_(0, padded, torch.finfo(s.dtype).min)
    s = s.view(b, F, -1)
    z = torch.sub(s, s.detach().amax(dim=1, keepdim=True), out=w_room) if shifted else s
    w = torch.exp(z, out=w_room)
    along = _sum_of_products(w, s, along_out)
    # One product for G w and, in the last row, for Σ_f w_f ‖v_f‖.
    Gw = torch.matmul(gram, w, out=Gw_room)  # (b, F + 1, A)
    return GramSums(along, _sum_of_products(w, Gw[:, :F], square_out), Gw[:, F])


def _sum_of_products(x: Tensor, y: Tensor, out: Tensor | None) -> Tensor:
    """Σ_f x_bfa y_bfa: (b, A), for x and y (b, F, A)."""
    if out is None:
        return (x * y).sum(dim=1)
    # Frame by frame: the products are never written down, and the sum stays in cache.
    torch.mul(x[:, 0], y[:, 0], out=out)
    for f in range(1, x.shape[1]):
        out.addcmul_(x[:, f], y[:, f])
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
    gram = gram_matrices(frames, frame_mask)
    # split, unlike slices, gathers the gradient of all chunks in one step.
    parts = list(
        zip(*(x.split(chunk) for x in (frames, gram, frame_mask)), strict=True)
    )
    if torch.is_grad_enabled() and (captions.requires_grad or frames.requires_grad):
        # Recomputing a chunk in the backward pass costs one matrix product; keeping
        # its weights for all chunks would cost several tensors of the size (A, B, F).
        again = partial(
            checkpoint, gram_sums, use_reentrant=False, preserve_rng_state=False
        )
        results = [_finished(again(scaled, *part)) for part in parts]
        along, doubtful = (torch.cat(x) for x in zip(*results, strict=True))
    else:
        peak = float(scaled.norm(dim=-1).max() * gram[:, -1].max())
        along, doubtful = _without_gradient(scaled, parts, not peak < MAX_EXPONENT)
    lengths = scaled.norm(dim=-1, keepdim=True).clamp_min(1e-12)  # (A, 1)
    # Into a tensor of the final layout: in one pass, where a transposed copy takes three.
    into = None if along.requires_grad else along.new_empty(along.shape[::-1])
    scores = torch.div(along.T, lengths, out=into)
    if doubtful.any():
        b, a = doubtful.nonzero(as_tuple=True)
        step = max(1, PAIR_NUMBERS // frames[0].numel())
        exact = [
            _direct_pairs(captions[i], frames[j], frame_mask[j], temperature)
            for i, j in zip(a.split(step), b.split(step), strict=True)
        ]
        scores = scores.index_put((a, b), torch.cat(exact))
    return scores.contiguous()


def _without_gradient(
    scaled: Tensor, parts: list[tuple[Tensor, Tensor, Tensor]], shifted: bool
) -> tuple[Tensor, Tensor]:
    """``_finished`` of all chunks (frames, gram, mask), (B, A), in the same buffers."""
    (b, F, _), A = parts[0][0].shape, len(scaled)
    room, square = scaled.new_empty(2, b * (F + 1), A), scaled.new_empty(b, A)
    B = sum(len(frames) for frames, _, _ in parts)
    along = scaled.new_empty(B, A)
    doubtful = torch.empty_like(along, dtype=torch.bool)
    into = zip(along.split(b), doubtful.split(b), strict=True)
    for part, (top, doubt) in zip(parts, into, strict=True):
        out = (top, square[: len(top)])
        sums = gram_sums(scaled, *part, shifted, room, out)
        inverse = sums.square.rsqrt_()
        doubt.copy_(doubtful_pairs(inverse, sums.spread))
        top.mul_(inverse)
    return along, doubtful


def _finished(sums: GramSums) -> tuple[Tensor, Tensor]:
    """‖captions_a‖ · global_ab, and which of them are not to be believed: (b, A)."""
    doubtful = doubtful_pairs(sums.square.detach().rsqrt(), sums.spread.detach())
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


def _chunk_size(A: int, F: int, frames: Tensor) -> int:
    """Videos per chunk: (A + F) F numbers each, scores and Gram matrix."""
    device = "cpu" if frames.device.type == "cpu" else "other"
    return max(1, CHUNK_NUMBERS[device] // (F * (A + F)))


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
