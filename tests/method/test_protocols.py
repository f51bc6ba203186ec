"""Nothing leaks: heads on features that know nothing, and on features that know all."""

from pathlib import Path

import pytest
import torch
from toy import toy_model, toy_recipe, toy_videos

from book.kit.measures import by_kind
from glscl.data.loader import FrameFeatures
from glscl.data.pairs import CachedVideos
from glscl.data.split import CaptionItem, Split, VideoItem
from glscl.evaluate import (
    encode_gallery,
    evaluate,
)
from glscl.gim import global_similarity, mean_similarity
from glscl.lim import LocalInteraction, local_similarity
from glscl.metrics import (
    bootstrap_interval,
    chance,
    retrieval_metrics,
    text_to_video_ranks,
)
from glscl.train import RunOptions, fit

D, F = 32, 5


def heads():
    """Every head as a function of captions (A, D), frames (B, F, D), mask (B, F)."""
    torch.manual_seed(0)
    lim = LocalInteraction(D, num_queries=4, num_layers=1, num_heads=4).eval()

    def local(captions, frames, mask):
        with torch.no_grad():
            return local_similarity(lim(captions[:, None]), lim(frames, mask))

    def both(captions, frames, mask):
        scores = global_similarity(captions, frames, mask)
        return scores + 0.5 * local(captions, frames, mask)

    return {
        "mean pooling": mean_similarity,
        "GIM": global_similarity,
        "GIM, direct": lambda *x: global_similarity(*x, method="direct"),
        "LIM": local,
        "GIM + LIM": both,
    }


def case(A, B, seed=0):
    """Videos with frames that resemble each other, padding, and captions' owners."""
    generator = torch.Generator().manual_seed(seed)
    themes = torch.randn(B, 1, D, generator=generator)
    frames = themes + 0.1 * torch.randn(B, F, D, generator=generator)
    mask = torch.arange(F) < torch.randint(1, F + 1, (B, 1), generator=generator)
    more = (
        torch.randint(B, (A - B,), generator=generator) if A > B else torch.tensor([])
    )
    owners = torch.cat([torch.randperm(B, generator=generator), more.long()])[:A]
    return frames * mask[..., None], mask, owners, generator


@pytest.mark.parametrize("name", heads())
@pytest.mark.parametrize(("A", "B"), [(700, 50), (60, 60), (40, 90)])
def test_random_captions_score_at_chance(name, A, B):
    frames, mask, owners, generator = case(A, B)
    captions = torch.randn(A, D, generator=generator)
    scores = heads()[name](captions, frames, mask)
    found = retrieval_metrics(scores, caption_to_video=owners)["t2v"]
    for k in (1, 5, 10):
        expected = chance(B, k)
        # Five standard deviations of a share of A draws, in percent. Queries that ask
        # for the same video are not independent, but their captions are.
        allowed = 500 * (expected / 100 * (1 - expected / 100) / A) ** 0.5
        assert abs(found[f"R{k}"] - expected) < allowed, (name, k)
    assert found["MnR"] == pytest.approx((B + 1) / 2, rel=0.25)


@pytest.mark.parametrize("name", heads())
@pytest.mark.parametrize(("A", "B"), [(90, 40), (40, 40)])
def test_perfect_captions_score_100(name, A, B):
    """A caption that is its video's theme finds it, in both directions."""
    frames, mask, owners, _ = case(A, B)
    captions = frames[owners, 0]
    scores = heads()[name](captions, frames, mask)
    for direction in retrieval_metrics(scores, caption_to_video=owners).values():
        assert direction["R1"] == 100
        assert direction["MnR"] == 1


@pytest.mark.parametrize("name", heads())
def test_order_of_captions_and_of_the_gallery_does_not_matter(name):
    frames, mask, owners, generator = case(50, 20)
    captions = frames[owners, 0] + 2 * torch.randn(50, D, generator=generator)
    rows, columns = (torch.randperm(n, generator=generator) for n in (50, 20))
    plain = retrieval_metrics(
        heads()[name](captions, frames, mask), caption_to_video=owners
    )
    moved = retrieval_metrics(
        heads()[name](captions[rows], frames[columns], mask[columns]),
        caption_to_video=columns.argsort()[owners[rows]],
    )
    assert plain["t2v"]["R1"] < 100
    for direction in ("t2v", "v2t"):
        for key, value in plain[direction].items():
            assert moved[direction][key] == pytest.approx(value), (direction, key)


def test_an_untrained_model_is_near_chance_and_a_trained_one_is_not():
    """The whole path, from captions as text to metrics, on its own training pairs."""
    videos = toy_videos(20, 1)
    model = toy_model()
    before = evaluate(model, videos).metrics["t2v"]
    assert before["R1"] < 30
    recipe = toy_recipe(epochs=20, clip_lr_scale=1.0, batch_size=20)
    fit(model, videos, recipe, options=RunOptions(progress=False))
    after = evaluate(model, videos).metrics["t2v"]
    assert after["R1"] > 80
    assert after["queries"] == after["gallery"] == 20


@pytest.mark.parametrize("changes", [{}, {"local": False, "pooling": "mean"}])
def test_scores_in_small_batches_are_the_scores_at_once(changes):
    videos = toy_videos(9, 3)
    model = toy_model(**changes)
    whole = evaluate(model, videos, batch_size=100).similarity
    assert whole.shape == (27, 9)
    for size in (1, 4, 27):
        found = evaluate(model, videos, batch_size=size).similarity
        torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("videos_of_a_block", [1, 2, 100])
def test_scores_of_a_gallery_in_blocks_are_the_scores_at_once(
    monkeypatch, videos_of_a_block
):
    videos, model = toy_videos(9, 3), toy_model().eval()
    whole = evaluate(model, videos).similarity
    one = encode_gallery(model, videos, numbers=range(1))
    size = sum(field.nbytes for field in one if field is not None)
    monkeypatch.setattr("glscl.evaluate.GALLERY_BYTES", videos_of_a_block * size)
    found = evaluate(model, videos).similarity
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)


def test_features_in_parts_are_the_features_at_once():
    whole = toy_videos(9, 3)
    sizes = [4, 4, 1]
    parts = zip(*(x.split(sizes) for x in whole.features), strict=True)
    videos = CachedVideos(whole.split, *(FrameFeatures(*part) for part in parts))
    assert torch.equal(videos.features.frames, whole.features.frames)
    for number in range(9):
        for one, other in zip(
            videos.load(number, 0), whole.load(number, 0), strict=True
        ):
            assert torch.equal(one, other)
    with pytest.raises(ValueError, match="frames"):
        CachedVideos(whole.split, videos.parts[0], videos.parts[1])


def test_evaluation_leaves_the_mode_and_needs_no_gradients():
    videos, model = toy_videos(4), toy_model()
    model.train()
    result = evaluate(model, videos)
    assert model.training
    assert not result.similarity.requires_grad
    assert encode_gallery(model.eval(), videos, batch_size=3).concepts.shape[0] == 4


def test_kinds_are_ranked_against_the_whole_gallery():
    scores = torch.tensor([[3.0, 1, 2], [1, 0, 2], [0, 3, 3], [0, 1, 2]])
    owners, kinds = (0, 1, 2, 2), ("easy", "hard", "hard", "easy")
    captions = (CaptionItem("a", *one) for one in zip(owners, kinds, strict=True))
    videos = tuple(VideoItem(str(i), Path("x.mp4")) for i in range(3))
    found = by_kind(scores, Split("test", videos, tuple(captions)))
    assert found["easy"]["R1"] == 100
    assert found["hard"]["R1"] == 25
    assert found["easy"]["queries"] == found["hard"]["queries"] == 2
    assert found["easy"]["gallery"] == 3


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    """200 samples of 60 from a coin of 0.3: about 95 % of the intervals hold 0.3."""
    generator = torch.Generator().manual_seed(0)
    held = 0
    for trial in range(200):
        coins = (torch.rand(60, generator=generator) < 0.3).double()
        low, high = bootstrap_interval(coins, samples=300, seed=trial)
        held += low <= 0.3 <= high
    assert 0.88 < held / 200 < 0.99


def test_bootstrap_draws_groups_whole():
    """Ten copies of a query are one piece of evidence: the interval stays as wide."""
    values = torch.tensor([1.0, 0, 0, 1, 0, 1, 0, 0])
    groups = torch.arange(8).repeat_interleave(10)
    plain = bootstrap_interval(values)
    copied = bootstrap_interval(values.repeat_interleave(10), groups)
    naive = bootstrap_interval(values.repeat_interleave(10))
    assert copied == pytest.approx(plain)
    assert naive[1] - naive[0] < 0.6 * (plain[1] - plain[0])
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(values, level=1.0)


def test_bootstrap_of_a_recall_is_in_percent():
    ranks = text_to_video_ranks(torch.eye(5))
    assert bootstrap_interval(100 * ranks.hits(1)) == (100, 100)
