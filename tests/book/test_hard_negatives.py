"""Hard negatives differ in one thing, in the clip and in its captions."""

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from toy import toy_model, toy_videos

from book.experiments.hard_negatives import (
    HARD_NEGATIVE_KINDS,
    hard_negative_accuracy,
    hard_negatives,
    with_hard_negatives,
)
from glscl.data.pairs import CachedVideos
from glscl.evaluate import evaluate
from glscl.mini.grammar import captions_of
from glscl.mini.render import render_clip
from glscl.mini.scenes import ROUND, SPLITS, composition, draw_clip, split_of
from glscl.mini.synthetic import make_benchmark


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmark")
    return make_benchmark(root, train=4, val=1, test=1, progress=False)


def test_hard_negatives_differ_in_exactly_one_thing():
    for index in range(25):
        clip = draw_clip("train", index)
        found = hard_negatives(clip)
        assert found == hard_negatives(clip)
        assert tuple(found) == HARD_NEGATIVE_KINDS
        for kind, negative in found.items():
            own = [tuple(shot.named().values()) for shot in clip.shots]
            other = [tuple(shot.named().values()) for shot in negative.shots]
            assert own != other
            assert len(set(composition(negative))) == 3
            if kind == "order":
                assert sorted(own) == sorted(other)
                assert sum(a != b for a, b in zip(own, other, strict=True)) == 2
                continue
            assert [s.start for s in negative.shots] == [s.start for s in clip.shots]
            changed = [
                name
                for a, b in zip(clip.shots, negative.shots, strict=True)
                for name, value in vars(a).items()
                if value != getattr(b, name)
            ]
            assert changed == [kind]
            assert all(
                shot.motion != "spin" or shot.shape not in ROUND
                for shot in negative.shots
            )
            assert not np.array_equal(render_clip(negative), render_clip(clip))


def test_the_clips_are_those_of_the_stored_runs():
    drawn = repr(hard_negatives(draw_clip("val", 0))).encode()
    assert hashlib.sha256(drawn).hexdigest()[:24] == "4d365141e6613e39c1ef35fd"


@pytest.mark.parametrize("split", SPLITS)
def test_hard_negatives_keep_the_compositions_of_other_splits_apart(split):
    found = Counter(
        split_of(negative)
        for index in range(150)
        for negative in hard_negatives(draw_clip(split, index)).values()
    )
    assert found.keys() <= {"train", split}


def test_captions_of_hard_negatives_are_the_same_sentences_with_one_thing_replaced():
    changed_words = Counter()
    for index in range(40):
        clip = draw_clip("train", index)
        for kind in ("colour", "shape", "pattern", "tone"):
            captions = captions_of(hard_negatives(clip)[kind], style=clip.id)
            for own, other in zip(captions_of(clip), captions, strict=True):
                assert own.mentions == other.mentions
                pair = list(zip(own.text.split(), other.text.split(), strict=True))
                # "a" becomes "an" before orange, so only the other words count.
                different = [a for a, b in pair if a != b and a not in ("a", "an")]
                assert len(different) <= 1
                changed_words[kind] += len(different)
    assert min(changed_words.values()) > 20


def test_a_split_with_hard_negatives_is_families_with_captions_that_differ(benchmark):
    kinds = ("motion", "size")
    plain = benchmark.split("train")
    grown = with_hard_negatives(benchmark, "train", kinds)
    assert [video.id for video in grown.videos] == [
        name
        for video in plain.videos
        for name in (video.id, f"{video.id}-motion", f"{video.id}-size")
    ]
    assert all(video.path.is_file() for video in grown.videos)
    texts = {
        video.id: [c.text for c in grown.captions if c.video == number]
        for number, video in enumerate(grown.videos)
    }
    for number, video in enumerate(plain.videos):
        own = [c.text for c in plain.captions if c.video == number]
        assert texts[video.id] == own
        assert texts[f"{video.id}-motion"]
        shared = set(texts[f"{video.id}-motion"]) & set(own)
        assert not shared, "motion is named by some caption of every clip here"
    with pytest.raises(ValueError, match="'taste'"):
        with_hard_negatives(benchmark, "train", ("taste",))


def test_accuracy_compares_a_caption_with_its_video_and_the_original():
    videos, model = toy_videos(6, 2), toy_model()
    # Two families of three; one caption is shared and so is not counted.
    captions = list(videos.split.captions)
    captions[3] = replace(captions[3], text=captions[0].text)
    split = replace(videos.split, captions=tuple(captions))
    families = CachedVideos(split, videos.features)
    scores = evaluate(model, families).similarity
    found = hard_negative_accuracy(model, families, ("first", "second"))
    for member, kind in enumerate(("first", "second"), 1):
        won = [
            bool(scores[a, c.video] > scores[a, c.video - member])
            for a, c in enumerate(captions)
            if c.video % 3 == member and a != 3
        ]
        assert len(won) == (3 if member == 1 else 4)
        assert found[kind] == pytest.approx(100 * sum(won) / len(won))
