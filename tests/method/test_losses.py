"""The losses: equal to their equations, true gradients, the limits that define them."""

import math

import pytest
import reference
import torch
from test_lim import unit_concepts
from torch.nn.functional import normalize
from torch.testing import assert_close

from glscl.losses import (
    concept_agreement,
    contrastive_score_consistency,
    info_nce,
    inter_consistency,
    intra_diversity,
    pearson_constraint,
)


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def close(found, expected, atol=1e-13):
    assert found.shape == ()
    assert abs(found.item() - expected) <= atol


@pytest.mark.parametrize("A", [1, 2, 7])
def test_info_nce_equals_the_loops(A):
    logits = 5 * random(A, A)
    close(info_nce(logits), reference.info_nce(logits.numpy()))


def test_info_nce_of_indifferent_scores_is_log_of_the_batch():
    close(info_nce(torch.full((9, 9), 3.0).double()), math.log(9))


def test_info_nce_takes_both_directions_alike():
    logits = random(6, 6)
    close(info_nce(logits), info_nce(logits.T).item())


@pytest.mark.parametrize("normalise", ["released", "batch"])
@pytest.mark.parametrize(("A", "Q"), [(5, 3), (1, 4), (2, 1)])
def test_icl_equals_the_loops(normalise, A, Q):
    video, text = unit_concepts(A, Q, seed=0), unit_concepts(A, Q, seed=1)
    expected = reference.inter_consistency(
        video.numpy(), text.numpy(), 0.3, 0.6, Q if normalise == "released" else A
    )
    close(inter_consistency(video, text, 0.3, 0.6, normalise), expected)


def test_the_released_agreement_grows_with_the_batch_and_the_mean_does_not():
    video, text = unit_concepts(4), unit_concepts(4, seed=1)
    twice = [torch.cat([x, x]) for x in (video, text)]
    once = concept_agreement(video, text)
    assert_close(concept_agreement(*twice), 2 * once)
    mean = concept_agreement(video, text, "batch")
    assert_close(concept_agreement(*twice, "batch"), mean)
    assert_close(once * 3, mean * 4)


def test_icl_vanishes_where_all_pairs_agree_to_the_target():
    video = unit_concepts(4)
    close(inter_consistency(video, video, 1.0, 1.0, "batch"), 0.0)


@pytest.mark.parametrize(("B", "Q"), [(4, 3), (1, 2)])
@pytest.mark.parametrize("margin", [0.1, 0.9, 1.5])
def test_idl_equals_the_loops(B, Q, margin):
    video, text = unit_concepts(B, Q, seed=0), unit_concepts(B + 1, Q, seed=1)
    one = reference.intra_diversity(video.numpy(), margin)
    other = reference.intra_diversity(text.numpy(), margin)
    close(intra_diversity(video, text, margin), one)
    close(intra_diversity(video, margin=margin), one)
    close(intra_diversity(video, text, margin, sides="both"), (one + other) / 2)


def test_idl_ignores_concepts_apart_and_charges_equal_ones_twice_the_margin():
    apart = torch.eye(5, dtype=torch.float64)[None, :3]
    close(intra_diversity(apart), 0.0)
    close(intra_diversity(apart[:, :1].expand(4, 3, 5)), 2 * 0.1)
    close(intra_diversity(apart[:, :1]), 0.0)


@pytest.mark.parametrize(("S", "A"), [(4, 5), (2, 2)])
def test_csc_equals_the_loops(S, A):
    scores = random(S, A, A)
    close(
        contrastive_score_consistency(scores),
        reference.score_consistency(scores.numpy()),
    )


def test_csc_vanishes_where_the_levels_agree_on_the_pairs():
    scores = random(4, 5, 5)
    scores.diagonal(dim1=1, dim2=2).copy_(torch.arange(5.0))
    close(contrastive_score_consistency(scores), 0.0)


@pytest.mark.parametrize("off_diag", [0.0, 0.3])
def test_pearson_constraint_equals_the_loops(off_diag):
    x, y = random(7, 5), random(7, 5, seed=1)
    expected = reference.pearson_constraint(x.numpy(), y.numpy(), 0.14, off_diag)
    close(pearson_constraint(x, y, off_diag=off_diag), expected, atol=1e-12)


def test_pearson_constraint_ignores_scale_and_offset_of_a_channel():
    x, y = random(7, 5), random(7, 5, seed=1)
    close(pearson_constraint(3 * x + 1, y), pearson_constraint(x, y).item())


def test_pearson_constraint_survives_a_constant_channel():
    x, y = random(7, 5), random(7, 5, seed=1)
    x[:, 2] = 4.0
    x.requires_grad_()
    loss = pearson_constraint(x, y)
    loss.backward()
    others = [0, 1, 3, 4]
    rest = pearson_constraint(x[:, others], y[:, others])
    close(loss, rest.item() + 0.14)
    assert x.grad.isfinite().all()


def test_gradients_are_true():
    check = torch.autograd.gradcheck
    video, text = random(3, 2, 4), random(3, 2, 4, seed=1)
    for x in (video, text):
        x.requires_grad_()

    def icl(v, t):
        return inter_consistency(normalize(v, dim=-1), normalize(t, dim=-1))

    def idl(v, t):
        v, t = normalize(v, dim=-1), normalize(t, dim=-1)
        return intra_diversity(v, t, margin=1.4, sides="both")

    assert check(icl, (video, text))
    assert check(idl, (video, text))
    assert check(info_nce, (random(4, 4).requires_grad_(),))
    assert check(contrastive_score_consistency, (random(4, 3, 3).requires_grad_(),))
    x, y = random(4, 3).requires_grad_(), random(4, 3, seed=1).requires_grad_()
    assert check(lambda x, y: pearson_constraint(x, y, off_diag=0.2), (x, y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_single_precision(dtype):
    half = (30 * random(16, 16)).to(dtype)
    expected = info_nce(half.float())
    with torch.autocast("cpu", dtype=dtype):
        found = info_nce(half)
        concepts = unit_concepts(4).to(dtype)
        others = (
            inter_consistency(concepts, concepts),
            intra_diversity(concepts),
            contrastive_score_consistency(torch.stack([half, half.T])),
            pearson_constraint(half, half),
        )
    assert torch.equal(found, expected)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in others)


def test_bad_input_is_named():
    video, text = unit_concepts(4), unit_concepts(5)
    with pytest.raises(ValueError, match=r"logits: axis 1 \(A\) must have size 3"):
        info_nce(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"video_concepts: axis 0 \(A\)"):
        inter_consistency(video, text)
    with pytest.raises(ValueError, match="'released' or 'batch', got 'mean'"):
        inter_consistency(video, video, normalise="mean")
    with pytest.raises(ValueError, match="'video' or 'both', got 'text'"):
        intra_diversity(video, sides="text")
    with pytest.raises(ValueError, match="sides='both' needs text_concepts"):
        intra_diversity(video, sides="both")
    with pytest.raises(ValueError, match="at least two levels and two pairs"):
        contrastive_score_consistency(torch.zeros(4, 1, 1))
    with pytest.raises(ValueError, match="at least two pairs"):
        pearson_constraint(torch.zeros(1, 3), torch.zeros(1, 3))
