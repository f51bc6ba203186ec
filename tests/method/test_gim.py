"""The GIM: equal to its equation, exact masks, true gradients, small memory."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from reference import gim, mean_pooled
from torch.nn.functional import normalize
from torch.testing import assert_close

from glscl.gim import (
    frame_weights,
    global_similarity,
    gram_form,
    mean_similarity,
)
from glscl.util.gram_blocks import (
    BLOCK_NUMBERS,
    CANCELLING,
    doubtful_pairs,
    gram_matrices,
    gram_sums,
    inner_products,
    score_chunk,
)

METHODS = ("gram", "direct")
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gim_loss_memory.py"


def features(A, B, F, D, seed=0, dtype=torch.float64):
    """Captions, frames, and a mask with full, cut and single-frame videos."""
    generator = torch.Generator().manual_seed(seed)
    captions = torch.randn(A, D, generator=generator, dtype=dtype)
    frames = torch.randn(B, F, D, generator=generator, dtype=dtype)
    real = 1 + (F - 1 - torch.arange(B)) % F
    return captions, frames, torch.arange(F) < real[:, None]


def cancelling(A, B, F, D, rest, dtype=torch.float64):
    """Frames that are ± one vector plus ``rest`` times noise: their sum is small."""
    captions, frames, mask = features(A, B, F, D)
    signs = 1 - 2 * (torch.arange(F) % 2).to(dtype)
    frames = frames[:, :1] * signs[:, None] + rest * frames
    # Small captions weigh all frames nearly alike, which is what makes them cancel.
    return (1e-3 * captions).to(dtype), frames.to(dtype), torch.ones_like(mask)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunk", [None, 1, 2, 100])
@pytest.mark.parametrize(
    ("A", "B", "F", "D"), [(5, 7, 3, 11), (1, 4, 5, 6), (4, 1, 5, 6), (3, 6, 1, 4)]
)
def test_similarity_equals_the_loops(method, chunk, A, B, F, D):
    captions, frames, mask = features(A, B, F, D)
    expected, _ = gim(captions.numpy(), frames.numpy(), mask.numpy(), 1.7)
    found = global_similarity(captions, frames, mask, 1.7, method, chunk)
    assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("A", "B", "F", "D"), [(5, 7, 3, 11), (1, 4, 5, 6), (4, 1, 5, 6), (3, 6, 1, 4)]
)
def test_the_plain_gram_form_equals_the_loops_and_both_fast_computations(A, B, F, D):
    captions, frames, mask = features(A, B, F, D)
    expected, _ = gim(captions.numpy(), frames.numpy(), mask.numpy(), 1.7)
    plain = gram_form(captions, frames, mask, 1.7)
    assert_close(plain, torch.from_numpy(expected), rtol=0, atol=1e-13)
    without_gradient = global_similarity(captions, frames, mask, 1.7)
    with_gradient = global_similarity(captions.requires_grad_(), frames, mask, 1.7)
    assert_close(without_gradient, plain, rtol=0, atol=1e-13)
    assert_close(with_gradient.detach(), plain, rtol=0, atol=1e-13)


def test_weights_equal_the_loops_and_sum_to_one():
    captions, frames, mask = features(4, 6, 5, 7)
    _, expected = gim(captions.numpy(), frames.numpy(), mask.numpy(), 3.0)
    weights = frame_weights(captions, frames, mask)
    assert_close(weights, torch.from_numpy(expected), rtol=0, atol=1e-14)
    assert_close(weights.sum(-1), torch.ones(4, 6, dtype=torch.float64))
    assert (weights[:, ~mask] == 0).all()


def test_mean_pooling_equals_the_loops_and_is_the_limit_of_high_temperature():
    captions, frames, mask = features(4, 6, 5, 7)
    expected = mean_pooled(captions.numpy(), frames.numpy(), mask.numpy())
    found = mean_similarity(captions, frames, mask)
    assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-14)
    assert_close(global_similarity(captions, frames, mask, 1e12), found)


@pytest.mark.parametrize("method", METHODS)
def test_what_stands_in_a_padded_frame_does_not_matter(method):
    captions, frames, mask = features(5, 7, 3, 11)
    other = frames.masked_fill(~mask[:, :, None], 1e3)
    plain = global_similarity(captions, frames, mask, method=method)
    assert torch.equal(global_similarity(captions, other, mask, method=method), plain)


@pytest.mark.parametrize("method", METHODS)
def test_more_padding_does_not_matter(method):
    captions, frames, mask = features(5, 7, 3, 11)
    longer = torch.cat([frames, torch.ones(7, 4, 11)], dim=1)
    longer_mask = torch.cat([mask, torch.zeros(7, 4, dtype=torch.bool)], dim=1)
    assert_close(
        global_similarity(captions, longer, longer_mask, method=method),
        global_similarity(captions, frames, mask, method=method),
        rtol=0,
        atol=1e-14,
    )


@pytest.mark.parametrize("method", METHODS)
def test_permuting_inputs_permutes_scores(method):
    captions, frames, mask = features(5, 7, 3, 11)
    a, b, f = torch.randperm(5), torch.randperm(7), torch.randperm(3)
    scores = global_similarity(captions, frames, mask, method=method)
    shuffled = global_similarity(
        captions[a], frames[b][:, f], mask[b][:, f], method=method
    )
    assert_close(shuffled, scores[a][:, b], rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunk", [None, 2])
def test_gradients_are_true(method, chunk):
    captions, frames, mask = features(3, 4, 3, 5)
    inputs = (captions.requires_grad_(), frames.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda c, v: global_similarity(c, v, mask, 2.0, method, chunk), inputs
    )


def test_gradients_are_true_where_frames_nearly_cancel():
    captions, frames, mask = cancelling(2, 3, 4, 5, rest=1e-2)
    gram = gram_matrices(frames, mask)
    _, doubtful = score_chunk(captions / 3.0, frames, mask, gram)
    assert doubtful.any(), "nothing cancels here"
    inputs = (captions.requires_grad_(), frames.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda c, v: global_similarity(c, v, mask, chunk=2), inputs
    )


def test_gram_and_direct_gradients_agree():
    captions, frames, mask = features(9, 7, 5, 16)
    grads = []
    for method in METHODS:
        c, v = captions.clone().requires_grad_(), frames.clone().requires_grad_()
        global_similarity(c, v, mask, method=method, chunk=3).square().sum().backward()
        grads.append((c.grad, v.grad))
    assert_close(grads[0], grads[1], rtol=0, atol=1e-13)


@pytest.mark.parametrize("rest", [1.0, 0.3, 0.1, 0.03, 0.01])
def test_gram_is_as_accurate_as_direct_however_much_frames_cancel(rest):
    inputs = cancelling(16, 16, 12, 512, rest)
    exact = global_similarity(*inputs, method="direct")
    single = (inputs[0].float(), inputs[1].float(), inputs[2])
    gram = (global_similarity(*single) - exact).abs().max()
    direct = (global_similarity(*single, method="direct") - exact).abs().max()
    # Below CANCELLING-fold cancellation both are within a few ε; beyond it the
    # scores are computed by the direct form.
    assert gram <= max(5e-7, 2 * direct)


@pytest.mark.parametrize("length", [1e-3, 1.0, 6.5, 8.0, 11.0, 1e3])
@pytest.mark.parametrize("opposite", [False, True])
def test_gram_is_as_accurate_as_direct_whatever_the_lengths(length, opposite):
    # With τ = 1 the exponents of caption 0 and its own video reach ± length²,
    # in and out of the range of float32, with and without the shift.
    captions, frames, mask = features(9, 7, 5, 32)
    captions, frames = (length * normalize(x, dim=-1) for x in (captions, frames))
    frames[0] = captions[0] * (-1 if opposite else 1)
    frames[1, :2] = captions[0]
    exact = global_similarity(captions, frames, mask, 1.0, method="direct")
    single = (captions.float(), frames.float(), mask, 1.0)
    gram = (global_similarity(*single) - exact).abs().max()
    direct = (global_similarity(*single, method="direct") - exact).abs().max()
    assert gram <= max(5e-7, 2 * direct)


@pytest.mark.parametrize("length", [1.0, 30.0])
@pytest.mark.parametrize(("block", "chunk"), [(1, 5), (200, 5), (200, None), (500, 7)])
def test_chunks_and_blocks_of_any_size_give_the_same_scores(
    monkeypatch, length, block, chunk
):
    # Cut videos, with exponents in and out of the range, then some that nearly cancel.
    captions, frames, mask = features(9, 17, 5, 32)
    captions, frames = (length * normalize(x, dim=-1) for x in (captions, frames))
    frames[11:, :4] = frames[11:, :1] * torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None]
    frames[11:, :4] += 1e-3 * features(1, 6, 4, 32, seed=1)[1]
    captions[3:6] *= 1e-3
    exact = global_similarity(captions, frames, mask, 1.0, method="direct")
    monkeypatch.setitem(BLOCK_NUMBERS, "cpu", block)
    single = (captions.float(), frames.float(), mask, 1.0)
    gram = (global_similarity(*single, chunk=chunk) - exact).abs().max()
    # Twice what a pair may lose before it is computed directly, see doubtful_pairs.
    assert gram <= torch.finfo(torch.float32).eps * CANCELLING**2


def test_without_the_shift_pairs_beyond_the_range_of_powers_are_doubtful():
    captions = torch.tensor([[9.4, 0.0]])
    frames = 9.4 * torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]], [[0.0, 1.0]]])
    mask = torch.ones(3, 1, dtype=torch.bool)
    _, squared_norm, norm_bound = sums = torch.empty(3, 3, 1)
    gram_sums(
        inner_products(captions, frames, mask),
        gram_matrices(frames, mask),
        bound=0.0,  # no shift
        workspace=(torch.empty(3, 1, 1), torch.empty(3, 2, 1)),
        out=sums,
    )
    doubtful = doubtful_pairs(squared_norm.rsqrt(), norm_bound)
    assert doubtful.flatten().tolist() == [True, True, False]


def test_without_the_direct_form_cancelling_frames_would_lose_digits(monkeypatch):
    captions, frames, mask = cancelling(16, 16, 12, 512, rest=0.01)
    exact = global_similarity(captions, frames, mask, method="direct")
    monkeypatch.setattr("glscl.util.gram_blocks.CANCELLING", float("inf"))
    gram = global_similarity(captions.float(), frames.float(), mask)
    assert (gram - exact).abs().max() > 1e-5


def test_frames_that_cancel_exactly_score_zero_without_breaking_the_gradient():
    captions = torch.tensor([[0.0, 1.0]], requires_grad=True)
    frames = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]], requires_grad=True)
    score = global_similarity(captions, frames, torch.ones(1, 2, dtype=torch.bool))
    score.sum().backward()
    assert score.item() == 0
    assert captions.grad.isfinite().all()


def test_a_zero_caption_scores_zero():
    captions, frames, mask = features(2, 3, 4, 5)
    captions[1] = 0
    assert (global_similarity(captions, frames, mask)[1] == 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_huge_scores_do_not_overflow_the_softmax(method):
    captions, frames, mask = features(4, 5, 3, 8, dtype=torch.float32)
    scores = global_similarity(1e4 * captions, 1e4 * frames, mask, method=method)
    assert scores.isfinite().all()
    assert scores.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_and_half_features_stay_finite_and_close(method, dtype):
    captions, frames, mask = features(6, 5, 3, 64, dtype=torch.float32)
    plain = global_similarity(captions, frames, mask, method=method)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(
            global_similarity(captions, frames, mask, method=method), plain
        )
    half = global_similarity(captions.to(dtype), frames.to(dtype), mask, method=method)
    assert half.dtype == torch.float32
    # Only the inputs were rounded, to 8 or 11 bits.
    assert_close(half, plain, rtol=0, atol=2e-2)


def test_autocast_backward_is_finite():
    captions, frames, mask = features(6, 5, 3, 64, dtype=torch.float32)
    frames.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = global_similarity(captions, frames, mask).sum()
    loss.backward()
    assert frames.grad.isfinite().all()


def test_integer_masks_are_masks():
    captions, frames, mask = features(5, 7, 3, 11)
    assert torch.equal(
        global_similarity(captions, frames, mask.long()),
        global_similarity(captions, frames, mask),
    )


@pytest.mark.parametrize(
    "function", [global_similarity, frame_weights, mean_similarity]
)
def test_bad_input_is_named(function):
    captions, frames, mask = features(5, 7, 3, 11)
    with pytest.raises(ValueError, match=r"frames: axis 2 \(D\) must have size 10"):
        function(captions[:, :10], frames, mask)
    with pytest.raises(ValueError, match=r"frame_mask: axis 1 \(F\) must have size 3"):
        function(captions, frames, mask[:, :2])
    with pytest.raises(ValueError, match="captions must have the 2 axes"):
        function(captions[0], frames, mask)
    empty = mask.clone()
    empty[4] = False
    with pytest.raises(ValueError, match="frame_mask: row 4 is all False"):
        function(captions, frames, empty)
    broken = frames.clone()
    broken[2, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="frames: row 2 has NaN"):
        function(captions, broken, mask)
    broken = captions.clone()
    broken[3, 1] = float("inf")
    with pytest.raises(ValueError, match="captions: row 3 has NaN or infinite"):
        function(broken, frames, mask)


def test_bad_settings_are_named():
    captions, frames, mask = features(5, 7, 3, 11)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        global_similarity(captions, frames, mask, 0)
    with pytest.raises(ValueError, match="'gram' or 'direct', got 'fast'"):
        global_similarity(captions, frames, mask, method="fast")
    with pytest.raises(ValueError, match="chunk must be at least 1 video, got 0"):
        global_similarity(captions, frames, mask, chunk=0)


def test_overflowing_features_are_named():
    huge = torch.full((2, 4), 1e30)
    with pytest.raises(ValueError, match="captions and frames are too large"):
        global_similarity(huge, huge[:, None], torch.ones(2, 1, dtype=torch.bool))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_the_loss_takes_a_tenth_of_the_direct_memory_and_no_more_time():
    benchmark = runpy.run_path(str(SCRIPT))
    found = benchmark["compare"](batch=192, frames=12, dim=512, runs=1)
    assert found["memory_ratio"] >= 10
    assert found["time_ratio"] >= 1
