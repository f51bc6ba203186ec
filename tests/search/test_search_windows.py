"""Cutting videos into windows, and reading each frame once."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from glscl.data.frames import (
    read_frames,
    resize_crop,
    sample_indices,
    second_indices,
)
from glscl.data.loader import FrameSpec
from glscl.data.timeline import Timeline
from glscl.search.windows import Windows, cut, decoded_chunks, read_chunks

SPEC = FrameSpec(6, 2.0, 32, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("seed", range(40))
def test_windows_cover_a_video_evenly(seed):
    rng = np.random.default_rng(seed)
    count, fps = int(rng.integers(1, 5000)), float(rng.uniform(0.5, 60))
    windows = Windows(float(rng.uniform(1, 20)), float(rng.uniform(0, 0.8)))
    cuts = cut(Timeline.regular(count, fps), SPEC, windows)
    assert cuts[0].start == 0
    assert cuts[-1].end <= count / fps + 1e-6
    rate = min(fps, SPEC.sample_fps, SPEC.max_frames / windows.seconds)
    for before, after in pairwise(cuts):
        assert before.start < after.start <= before.end + 2 / rate
        assert len(after.indices) == len(before.indices)
    # What follows the last window is shorter than two steps of the grid.
    assert count / fps - cuts[-1].end < 2 / rate + windows.seconds % (1 / rate)
    for one in cuts:
        assert 1 <= len(one.indices) <= SPEC.max_frames
        assert (np.diff(one.indices) > 0).all()
        assert one.indices[0] >= 0
        assert one.indices[-1] < count
        assert one.start - 1 / fps <= one.indices[0] / fps
        assert one.indices[-1] / fps <= one.end + 1 / fps


@pytest.mark.parametrize("seconds", [0.5, 3.0, 14.9])
def test_a_short_video_is_one_window_sampled_as_in_training(seconds):
    count, fps = round(seconds * 8), 8.0
    (only,) = cut(Timeline.regular(count, fps), SPEC, Windows(10))
    np.testing.assert_array_equal(only.indices, sample_indices(count, fps, 6, 2.0))
    assert (only.start, only.end) == (0, count / fps)


def test_a_short_video_is_sampled_by_the_rule_of_the_model():
    timeline = Timeline.regular(150, 29.97)
    (only,) = cut(timeline, replace(SPEC, sampling="seconds"), Windows(10))
    np.testing.assert_array_equal(only.indices, second_indices(150, 29.97, 6))


def test_no_more_windows_overlap_than_max_overlapping():
    for overlap in (0.0, 0.3, 0.5, 0.75):
        windows = Windows(3.0, overlap)
        cuts = cut(Timeline.regular(4000, 30.0), SPEC, windows)
        for one in cuts:
            overlapping = sum(a.start < one.end and one.start < a.end for a in cuts)
            assert overlapping <= windows.max_overlapping


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 0.5), "seconds must be a number above 0"),
        ((float("nan"), 0), "seconds must be a number above 0"),
        ((1, 1.0), "overlap must be a number of at least 0 and below 1, got 1.0"),
        ((1, -0.1), "overlap must be a number of at least 0 and below 1, got -0.1"),
    ],
)
def test_impossible_windows_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Windows(*values)


def test_chunks_hold_the_frames_that_their_windows_name(ramp_video):
    windows = Windows(1.5, 0.5)
    (chunk,) = read_chunks(ramp_video, 7, SPEC, windows)
    assert (chunk.file, chunk.last, chunk.error) == (7, True, None)
    cuts = cut(Timeline.regular(40, 8.0), SPEC, windows)
    assert len(chunk.frame_slots) == len(cuts) > 3
    every = resize_crop(read_frames(ramp_video, 40, 8.0), 32)
    for one, frame_slots, times in zip(
        cuts, chunk.frame_slots, chunk.times, strict=True
    ):
        real = frame_slots >= 0
        np.testing.assert_array_equal(
            chunk.frames[frame_slots[real]], every[one.indices]
        )
        np.testing.assert_allclose(times[real], one.indices / 8)
        assert np.isnan(times[~real]).all()
    assert len(chunk.frames) < sum(len(one.indices) for one in cuts)


def test_a_long_video_comes_in_chunks(ramp_video, monkeypatch):
    whole = [*read_chunks(ramp_video, 0, SPEC, Windows(1.0, 0.5))]
    monkeypatch.setattr("glscl.search.windows.WINDOWS_AT_ONCE", 2)
    parts = [*read_chunks(ramp_video, 0, SPEC, Windows(1.0, 0.5))]
    assert len(parts) == -(-len(whole[0].frame_slots) // 2)
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    spans = np.concatenate([part.spans for part in parts])
    np.testing.assert_array_equal(spans, whole[0].spans)


def test_broken_files_are_a_problem_of_theirs_alone(ramp_video, tmp_path):
    broken, cut_short = tmp_path / "broken.mp4", tmp_path / "short.mp4"
    broken.write_bytes(b"no video")
    cut_short.write_bytes(ramp_video.read_bytes()[:700])
    paths = [broken, ramp_video, cut_short, tmp_path / "lost.mp4"]
    found = [*decoded_chunks(paths, SPEC, Windows())]
    assert [bool(chunk.error) for chunk in found] == [True, False, True, True]
    assert "broken.mp4" in str(found[0].error)
    assert all(chunk.last for chunk in found)


def test_other_processes_give_the_same_chunks(ramp_video):
    paths = [ramp_video] * 3
    here = [*decoded_chunks(paths, SPEC, Windows(1.0))]
    there = sorted(
        decoded_chunks(paths, SPEC, Windows(1.0), workers=2),
        key=lambda chunk: chunk.file,
    )
    for a, b in zip(here, there, strict=True):
        assert a.file == b.file
        np.testing.assert_array_equal(a.frames, b.frames)
        np.testing.assert_array_equal(a.frame_slots, b.frame_slots)
