"""One call loads what a chapter works with; measures that chapters share are right."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from book.kit import chapter, measures
from glscl.data.split import CaptionItem, Split, VideoItem

PARAMETERS = {
    "seed": 0,
    "device": "cpu",
    "train_clips": 4,
    "val_clips": 2,
    "test_clips": 3,
    "backbone": "mini",
    "pretrained": "builtin",
    "max_frames": 5,
    "sample_fps": 8.0,
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini")
    return chapter.load(PARAMETERS | {"data_root": str(folder)}, "train", "test")


def test_a_chapter_gets_its_splits_and_the_features_of_its_clips(page):
    assert page.videos.keys() == {"train", "test"}
    frames, mask = page.videos["test"].features
    assert frames.shape == (3, 5, page.clip_model.embed_dim)
    assert mask.all()
    split = page.videos["test"].split
    assert len(page.benchmark.clips("test")) == len(split.videos) == 3
    assert not any(p.requires_grad for p in page.clip_model.parameters())


def test_features_are_those_of_the_pictures(page):
    from glscl.data.frames import preprocess

    pictures = page.pictures("test", 1)
    look = page.spec.image_size, page.spec.mean, page.spec.std
    with torch.no_grad():
        found = page.clip_model.encode_image(preprocess(pictures, *look))
    stored = page.videos["test"].features.frames[1]
    np.testing.assert_allclose(found, stored, rtol=1e-3, atol=1e-3)


def test_the_trainings_of_a_chapter_take_its_parameters():
    made = chapter.setup(
        PARAMETERS | {"data_root": "here", "epochs": 7, "pretrained": None}
    )
    assert (made.data, made.test_clips, made.epochs) == ("here", 3, 7)
    assert made.pretrained is None


def test_r1_by_kind_counts_the_captions_of_a_kind():
    kinds = ("single", "all", "single", "all", "single")
    captions = tuple(CaptionItem("a", i // 2, kind) for i, kind in enumerate(kinds))
    videos = tuple(VideoItem(str(i), "x.mp4") for i in range(3))
    scores = torch.eye(3)[[0, 0, 2, 1, 2]]  # the third caption prefers another video
    found = measures.r1_by_kind(scores, Split("test", videos, captions))
    assert found == {"single": pytest.approx(200 / 3), "all": 100.0}


def test_inner_cosines_are_the_mean_over_pairs_of_concepts():
    concepts = normalize(torch.randn(4, 5, 3, dtype=torch.float64), dim=-1)
    slow = [
        np.mean([float(x[q] @ x[r]) for q in range(5) for r in range(5) if q != r])
        for x in concepts
    ]
    np.testing.assert_allclose(measures.inner_cosines(concepts), slow)
