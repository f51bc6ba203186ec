import math

import pytest
import torch

from glscl.metrics import (
    chance,
    dual_softmax,
    qb_norm,
    retrieval_metrics,
    text_to_video_ranks,
    video_to_text_ranks,
)


def random_case(seed, A, B, levels=None):
    """Similarities and owners; every video has a caption; few levels make ties."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(A, B, generator=generator, dtype=torch.float64)
    if levels:
        scores = (scores * levels).round() / levels
    owners = torch.cat(
        [torch.arange(B), torch.randint(B, (A - B,), generator=generator)]
    )
    return scores, owners[torch.randperm(A, generator=generator)]


def plain_t2v(scores, owners):
    """(better, ties) of every caption by two loops."""
    pairs = []
    for a, own in enumerate(owners.tolist()):
        others = [b for b in range(scores.shape[1]) if b != own]
        better = sum(bool(scores[a, b] > scores[a, own]) for b in others)
        ties = sum(bool(scores[a, b] == scores[a, own]) for b in others)
        pairs.append((better, ties))
    return pairs


def plain_v2t(scores, owners):
    """(better, ties) of every video over the caption groups by three loops."""
    B = scores.shape[1]
    groups = [
        [a for a, own in enumerate(owners.tolist()) if own == b] for b in range(B)
    ]
    pairs = []
    for b in range(B):
        best = [max(float(scores[a, b]) for a in group) for group in groups]
        others = [score for g, score in enumerate(best) if g != b]
        better = sum(score > best[b] for score in others)
        pairs.append((better, sum(score == best[b] for score in others)))
    return pairs


@pytest.mark.parametrize("levels", [None, 1, 3])
@pytest.mark.parametrize(("A", "B"), [(1, 1), (7, 7), (23, 7), (31, 30)])
def test_counts_equal_plain_loops(A, B, levels):
    scores, owners = random_case(A + B, A, B, levels)
    t2v = text_to_video_ranks(scores, owners)
    v2t = video_to_text_ranks(scores, owners)
    found = list(zip(t2v.better.tolist(), t2v.ties.tolist(), strict=True))
    assert found == plain_t2v(scores, owners)
    found = list(zip(v2t.better.tolist(), v2t.ties.tolist(), strict=True))
    assert found == plain_v2t(scores, owners)


def test_recalls_grow_with_k_and_stay_between_0_and_100():
    scores, owners = random_case(3, 90, 60, levels=4)
    for direction in retrieval_metrics(scores, caption_to_video=owners).values():
        recalls = [direction[key] for key in ("R1", "R5", "R10", "R50")]
        assert recalls == sorted(recalls)
        assert recalls[0] >= 0
        assert recalls[-1] <= 100


def test_perfect_features_give_100():
    metrics = retrieval_metrics(torch.eye(11))
    for direction in metrics.values():
        assert direction["R1"] == 100
        assert direction["MdR"] == direction["MnR"] == 1
        assert direction["queries"] == direction["gallery"] == 11


def test_constant_scores_are_at_chance_by_the_expected_rule():
    metrics = retrieval_metrics(torch.zeros(20, 20))["t2v"]
    assert metrics["R1"] == pytest.approx(chance(20))
    assert metrics["R5"] == pytest.approx(chance(20, 5))
    assert metrics["MnR"] == 10.5


def test_tie_rules_order_as_their_names_say():
    scores = torch.tensor([[2.0, 2.0, 1.0], [0.0, 5.0, 5.0], [1.0, 1.0, 1.0]])
    found = {
        rule: retrieval_metrics(scores, ties=rule)["t2v"]
        for rule in ("optimistic", "expected", "pessimistic")
    }
    assert found["optimistic"]["R1"] == 100
    assert found["pessimistic"]["R1"] == 0
    assert found["expected"]["R1"] == pytest.approx(100 * (1 / 2 + 1 / 2 + 1 / 3) / 3)
    assert found["expected"]["MnR"] == pytest.approx((1.5 + 1.5 + 2) / 3)
    with pytest.raises(ValueError, match="Unknown tie rule 'lucky'"):
        retrieval_metrics(scores, ties="lucky")


def test_duplicate_captions_do_not_make_extra_queries():
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    scores[1] = scores[0]
    metrics = retrieval_metrics(scores)
    assert metrics["v2t"]["queries"] == metrics["t2v"]["queries"] == 6


def test_median_of_an_even_number_of_ranks_is_the_middle():
    scores = torch.tensor([[3.0, 0, 0, 0], [9, 3, 0, 0], [9, 9, 3, 0], [9, 9, 9, 3]])
    assert retrieval_metrics(scores)["t2v"]["MdR"] == 2.5


def test_order_of_captions_does_not_matter():
    scores, owners = random_case(5, 40, 13, levels=3)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    first = retrieval_metrics(scores, caption_to_video=owners)
    again = retrieval_metrics(scores[order], caption_to_video=owners[order])
    assert first == again


def test_ill_fitting_input_is_refused():
    with pytest.raises(ValueError, match="give caption_to_video"):
        retrieval_metrics(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="video indices from 0 to 1"):
        retrieval_metrics(torch.zeros(3, 2), caption_to_video=torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="caption 1, video 0"):
        retrieval_metrics(torch.tensor([[0.0, 0], [math.nan, 0]]))
    with pytest.raises(ValueError, match="empty"):
        retrieval_metrics(torch.zeros(0, 0))


@pytest.mark.parametrize("theta", [1, 3, 1000])
def test_qb_norm_orders_rows_as_the_plain_inverted_softmax(theta):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(9, 7, generator=generator, dtype=torch.float64)
    bank = torch.rand(31, 7, generator=generator, dtype=torch.float64)
    found = qb_norm(scores, bank, k=2, beta=20.0, theta=theta)
    hits = [0] * 7
    for row in bank.tolist():
        for b in sorted(range(7), key=lambda b: -row[b])[:2]:
            hits[b] += 1
    for a in range(9):
        if hits[int(scores[a].argmax())] >= theta:
            sums = [sum(math.exp(20 * float(s)) for s in bank[:, b]) for b in range(7)]
            plain = [math.exp(20 * float(scores[a, b])) / sums[b] for b in range(7)]
        else:
            plain = scores[a].tolist()
        order = sorted(range(7), key=lambda b: -plain[b])
        assert found[a].argsort(descending=True).tolist() == order


def test_qb_norm_does_not_overflow():
    scores = torch.full((2, 3), 400.0)
    assert qb_norm(scores, scores, beta=20.0).isfinite().all()


def test_dual_softmax_weighs_columns_by_all_queries():
    scores = torch.rand(5, 4, dtype=torch.float64)
    found = dual_softmax(scores, scale=3.0)
    weights = (3.0 * scores).exp() / (3.0 * scores).exp().sum(dim=0)
    torch.testing.assert_close(found, scores * weights)
