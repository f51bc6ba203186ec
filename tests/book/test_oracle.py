"""What an ideal reader of the built-in benchmark would score."""

from itertools import permutations

import numpy as np
import pytest

from book.experiments.hard_negatives import hard_negatives
from book.experiments.oracle import (
    LEVELS,
    oracle_scores,
    relevant_frames,
    shot_of_frame,
)
from glscl.mini import synthetic
from glscl.mini.grammar import captions_of
from glscl.mini.scenes import ATTRIBUTES, CLIP_FRAMES
from glscl.mini.synthetic import make_benchmark


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmark")
    return make_benchmark(root, train=1, val=40, test=1, progress=False)


def test_relevant_frames_are_those_of_the_captioned_shots(benchmark):
    clip = benchmark.clips("val")[3]
    for caption in captions_of(clip):
        relevant = relevant_frames(clip, caption, range(CLIP_FRAMES))
        expected = np.zeros(CLIP_FRAMES, dtype=bool)
        for shot in caption.shots:
            expected[clip.shots[shot].start : clip.shots[shot].stop] = True
        assert np.array_equal(relevant, expected)
    with pytest.raises(IndexError, match="frames 0 to 35"):
        shot_of_frame(clip, 36)


def plain_oracle(clips, own, caption, level) -> list[int]:
    """1 where ``caption``, about the clip ``own``, is true, by trying everything."""
    names = [name for name in ATTRIBUTES if level != "objects" or name != "motion"]
    said = [
        {
            name: getattr(own.shots[mention.shot], name)
            for name in mention.attributes
            if name in names
        }
        for mention in caption.mentions
    ]
    row = []
    for clip in clips:
        true = 0
        for chosen in permutations(range(3), len(said)):
            fits = all(
                getattr(clip.shots[shot], name) == value
                for shot, facts in zip(chosen, said, strict=True)
                for name, value in facts.items()
            )
            in_order = level != "order" or list(chosen) == sorted(chosen)
            true |= fits and in_order
        row.append(int(true))
    return row


@pytest.mark.parametrize("level", LEVELS)
def test_oracle_equals_a_plain_search(benchmark, level):
    clips, captions = benchmark.clips("val"), benchmark.captions("val")
    plain = [
        plain_oracle(clips, clips[index // 5], caption, level)
        for index, caption in enumerate(captions)
    ]
    scores = oracle_scores(benchmark, "val", level)
    assert np.array_equal(scores, plain)
    assert scores[np.arange(200), np.arange(200) // 5].all()


def test_oracle_rules_out_more_the_more_it_understands(benchmark):
    # Hard negatives as distractors, so that motion and order each decide something.
    clip = benchmark.clips("val")[0]
    family = [clip, *hard_negatives(clip).values()]
    captions = tuple(c for each in family for c in captions_of(each, style=clip.id))
    together = synthetic.Benchmark(
        benchmark.root,
        0,
        {
            "val": tuple(
                (each, tuple(captions_of(each, style=clip.id))) for each in family
            )
        },
    )
    assert together.captions("val") == captions
    counts = [oracle_scores(together, "val", level).sum() for level in LEVELS]
    assert counts[0] > counts[1] > counts[2] >= len(captions)


def test_an_unknown_level_is_refused(benchmark):
    with pytest.raises(ValueError, match="Unknown level 'all'"):
        oracle_scores(benchmark, "val", "all")
