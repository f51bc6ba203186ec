"""Stills with captions: the pairs are pairs, and a seed gives the same ones again."""

import pytest
import torch

from book.experiments.still_pairs import still_pairs
from glscl.backbone import load_backbone


@pytest.fixture(scope="module")
def clip():
    return load_backbone("mini", pretrained=None).eval()


def test_every_caption_is_true_of_its_own_still(clip):
    pairs = still_pairs(clip, 9, seed=1)
    assert pairs.true.shape == (9, 9)
    assert pairs.true.diagonal().all()
    assert len(pairs.stills) == len(pairs.texts) == 9
    assert pairs.images.shape == (9, clip.embed_dim)
    assert not pairs.images.requires_grad


def test_a_seed_gives_the_same_pairs_and_another_seed_others(clip):
    first, again, other = (still_pairs(clip, 5, seed) for seed in (3, 3, 4))
    assert first.texts == again.texts != other.texts
    torch.testing.assert_close(first.images, again.images, rtol=0, atol=0)


def test_short_captions_are_true_of_at_least_as_many_stills(clip):
    short = still_pairs(clip, 60, 0, position=0.0, detail=0.0)
    full = still_pairs(clip, 60, 0, position=1.0, detail=1.0)
    assert short.true.sum() > full.true.sum()
