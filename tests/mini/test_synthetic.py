"""The built-in benchmark: the same clips every time, honest captions, safe files."""

import errno
import hashlib
import json
import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from book.experiments.mini_clip import decode_mp4
from glscl.data.encode import encode_mp4
from glscl.data.frames import read_frames
from glscl.mini.grammar import KINDS, captions_of
from glscl.mini.render import render_clip, render_shot
from glscl.mini.scenes import (
    CLIP_FRAMES,
    MIN_SHOT_FRAMES,
    RESIZING,
    ROUND,
    SHAPES,
    SPLITS,
    composition,
    draw_clip,
    draw_shot,
)
from glscl.mini.synthetic import (
    INDEX,
    BenchmarkError,
    clip_path,
    load_benchmark,
    make_benchmark,
)

SIZES = {"train": 4, "val": 40, "test": 3}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmark")
    return make_benchmark(root, **SIZES, progress=False)


def digest(clip) -> str:
    return hashlib.sha256(render_clip(clip).tobytes()).hexdigest()


def test_same_id_is_the_same_clip_frames_and_captions():
    first, again = draw_clip("test", 7), draw_clip("test", 7)
    assert first == again
    assert digest(first) == digest(again)
    assert captions_of(first) == captions_of(again)
    assert digest(first) != digest(draw_clip("test", 8))
    assert digest(first) != digest(draw_clip("test", 7, seed=1))


def test_clips_keep_to_the_recipe():
    for index in range(200):
        clip = draw_clip("train", index)
        ends = [0, *(shot.stop for shot in clip.shots)]
        assert [shot.start for shot in clip.shots] == ends[:-1]
        assert ends[-1] == CLIP_FRAMES
        lengths = np.diff(ends)
        assert lengths.min() >= MIN_SHOT_FRAMES
        assert len(set(composition(clip))) == len(clip.shots)
        for shot in clip.shots:
            assert not (shot.motion == "spin" and shot.shape in ROUND)


def test_splits_share_no_composition():
    seen = {
        split: {composition(draw_clip(split, index)) for index in range(300)}
        for split in SPLITS
    }
    assert not seen["train"] & seen["val"]
    assert not seen["train"] & seen["test"]
    assert not seen["val"] & seen["test"]


def test_smaller_benchmark_is_a_prefix_and_its_files_are_kept(benchmark, tmp_path):
    small = make_benchmark(tmp_path, train=2, val=1, test=1, progress=False)
    assert small.clips("train") == benchmark.clips("train")[:2]
    assert small.captions("val") == benchmark.captions("val")[:5]
    kept = clip_path(tmp_path, small.clips("train")[0])
    before = kept.stat().st_mtime_ns
    larger = make_benchmark(tmp_path, train=3, val=1, test=2, progress=False)
    assert kept.stat().st_mtime_ns == before
    assert larger.sizes == {"train": 3, "val": 1, "test": 2}
    # The index never shrinks: another process may be reading the larger benchmark.
    make_benchmark(tmp_path, train=1, val=1, test=1, progress=False)
    assert load_benchmark(tmp_path) == larger


def test_every_frame_of_a_shot_shows_its_object_moving_as_said():
    rng = random.Random(3)

    def centres(motion, **fixed):
        shot = draw_shot(
            rng, 0, 12, motion=motion, colour="red", pattern="plain", **fixed
        )
        frames = render_shot(shot).astype(float)
        redness = np.clip(frames[..., 0] - frames[..., 1] - 60, 0, None)
        mass = redness.sum(axis=(1, 2))
        grid = np.arange(64)
        with np.errstate(invalid="ignore"):
            x = (redness.sum(1) * grid).sum(-1) / mass
            y = (redness.sum(2) * grid).sum(-1) / mass
        return x, y, mass

    for shape in SHAPES:
        assert (np.diff(centres("left", shape=shape)[0]) < 0).all()
        assert (np.diff(centres("right", shape=shape)[0]) > 0).all()
        assert (np.diff(centres("up", shape=shape)[1]) < 0).all()
        assert (np.diff(centres("down", shape=shape)[1]) > 0).all()
        # Away from the border, so that nothing is cut off.
        grown = centres("grow", shape=shape, size="small")[2]
        assert (np.diff(grown) > 0).all()
        hidden = centres("blink", shape=shape)[2] == 0
        assert hidden.any()
        assert not hidden.all()


def test_drawing_is_anti_aliased_and_a_subset_of_frames_equals_the_whole():
    shot = draw_clip("train", 1).shots[0]
    whole = render_shot(shot)
    assert np.array_equal(render_shot(shot, [2, 5]), whole[[2, 5]])
    plain = draw_shot(random.Random(0), 0, 8, pattern="plain", motion="still")
    colours = np.unique(render_shot(plain, [0]).reshape(-1, 3), axis=0)
    assert len(colours) > 10


def test_captions_are_two_single_two_double_and_one_all(benchmark):
    assert len(benchmark.captions("train")) == 5 * SIZES["train"]
    for index in range(50):
        captions = captions_of(draw_clip("val", index))
        assert Counter(c.kind for c in captions) == {"single": 2, "double": 2, "all": 1}
        assert len({caption.text for caption in captions}) == 5
        for caption in captions:
            assert len(caption.shots) == 1 + KINDS.index(caption.kind)
            assert list(caption.shots) == sorted(set(caption.shots))


def test_captions_name_no_size_of_an_object_that_changes_it():
    named = 0
    for index in range(200):
        clip = draw_clip("train", index)
        for mention in (m for c in captions_of(clip) for m in c.mentions):
            if clip.shots[mention.shot].motion in RESIZING:
                assert "size" not in mention.attributes
            named += "size" in mention.attributes
    assert named > 100


def test_split_lists_videos_and_captions_in_the_order_of_the_annotations(benchmark):
    split = benchmark.split("val")
    assert [video.id for video in split.videos] == [
        c.id for c in benchmark.clips("val")
    ]
    assert [c.text for c in split.captions] == [
        c.text for c in benchmark.captions("val")
    ]
    assert [c.kind for c in split.captions] == [
        c.kind for c in benchmark.captions("val")
    ]
    assert [c.video for c in split.captions] == [i // 5 for i in range(200)]
    assert all(video.path.is_file() for video in split.videos)


def test_files_are_h264_and_have_36_faithful_frames(benchmark):
    errors = []
    for clip in benchmark.clips("val")[:8]:
        path = clip_path(benchmark.root, clip)
        # sample_fps of 8 takes every frame.
        frames = read_frames(path, max_frames=CLIP_FRAMES, sample_fps=8)
        assert frames.shape == (CLIP_FRAMES, 64, 64, 3)
        assert b"avc1" in path.read_bytes()
        error = np.abs(frames.astype(int) - render_clip(clip)).mean()
        errors.append(error)
    assert max(errors) <= 4


def test_encoding_repeats_byte_for_byte_on_any_number_of_threads():
    # Many clips: what made the encoder waver showed in a few of a hundred.
    drawn = [render_clip(draw_clip("train", index)) for index in range(150)]
    alone = [encode_mp4(frames, 8) for frames in drawn]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(partial(encode_mp4, fps=8), drawn)) == alone


def test_encoded_clips_decode_alike_and_carry_their_comment():
    frames = render_clip(draw_clip("val", 0))
    data = encode_mp4(frames, 8, "a comment")
    assert b"a comment" in data
    assert np.abs(decode_mp4(data).astype(int) - frames).mean() <= 4


def test_killed_run_resumes_and_damaged_clips_are_made_again(tmp_path):
    make_benchmark(tmp_path, train=4, val=1, test=1, progress=False)
    (tmp_path / INDEX).unlink()
    clips = [draw_clip("train", index) for index in range(4)]
    gone, cut, other, kept = (clip_path(tmp_path, clip) for clip in clips)
    whole = {path: path.read_bytes() for path in (gone, cut, other, kept)}
    untouched = kept.stat().st_mtime_ns
    gone.unlink()
    cut.write_bytes(whole[cut][:-100])
    other.write_bytes(whole[kept])  # complete, but not this clip
    leftover = gone.with_name(f".{gone.name}.x123")
    leftover.write_bytes(whole[gone][:50])
    os.utime(leftover, (1, 1))
    in_use = gone.with_name(f".{gone.name}.x124")
    in_use.write_bytes(b"another process is writing this")
    make_benchmark(tmp_path, train=4, val=1, test=1, progress=False)
    assert {path: path.read_bytes() for path in whole} == whole
    assert kept.stat().st_mtime_ns == untouched
    assert not leftover.exists()
    assert in_use.exists()
    assert load_benchmark(tmp_path).sizes == {"train": 4, "val": 1, "test": 1}


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def no_space(self, data):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(
        BenchmarkError,
        match=r"^The disk is full: .*mp4 was not written; free some space\.$",
    ):
        make_benchmark(tmp_path, train=2, val=1, test=1, progress=False)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BenchmarkError, match=r"Could not write .*file"):
        make_benchmark(tmp_path / "file", train=1, val=1, test=1, progress=False)


def test_index_that_is_missing_damaged_or_foreign_is_refused(benchmark, tmp_path):
    with pytest.raises(BenchmarkError, match=r"make it with .glscl data make --root"):
        load_benchmark(tmp_path)
    index = tmp_path / INDEX
    text = (benchmark.root / INDEX).read_text()
    for broken in (text[:-200], "[]", '{"version": 1, "seed": 0, "splits": {}}'):
        index.write_text(broken)
        with pytest.raises(BenchmarkError, match="is damaged: delete it"):
            load_benchmark(tmp_path)
    values = json.loads(text)
    index.write_text(json.dumps({**values, "version": 0}))
    with pytest.raises(BenchmarkError, match="of version 0, expected 1"):
        load_benchmark(tmp_path)
    index.write_text(text)
    with pytest.raises(BenchmarkError, match=r"train-00000\.mp4 is missing"):
        load_benchmark(tmp_path)
    with pytest.raises(BenchmarkError, match="with seed 0, not 1"):
        make_benchmark(tmp_path, **SIZES, seed=1, progress=False)


def test_unknown_names_and_sizes_are_refused(benchmark, tmp_path):
    with pytest.raises(ValueError, match="Unknown split 'dev'"):
        benchmark.split("dev")
    with pytest.raises(ValueError, match="Unknown split ''"):
        draw_clip("", 0)
    for bad in (0, -1, 2.5, True):
        with pytest.raises(
            ValueError, match="val must be a whole number of at least 1"
        ):
            make_benchmark(tmp_path, val=bad)


def test_index_gives_back_what_was_made(benchmark):
    assert load_benchmark(benchmark.root) == benchmark
    stored = json.loads((benchmark.root / INDEX).read_text())["splits"]["test"][2]
    clip, captions = benchmark.items("test")[2]
    assert [shot["colour"] for shot in stored["shots"]] == [
        s.colour for s in clip.shots
    ]
    assert [one["text"] for one in stored["captions"]] == [c.text for c in captions]
