import numpy as np
import pytest
import torch
from PIL import Image

from glscl.config import get_preset
from glscl.data.frames import (
    VideoError,
    normalise,
    pad_frames,
    read_frames,
    resize_crop,
    sample_indices,
    second_indices,
)
from glscl.data.loader import FrameSpec, decode
from glscl.data.split import VideoItem


def plain_rule(num_frames, fps, max_frames, sample_fps, start, end):
    """The rule of the release, written as the loop it describes."""
    first = 0 if start is None else int(start * fps)
    last = num_frames - 1 if end is None else min(int(end * fps), num_frames - 1)
    candidates, position = [], first
    while position <= last:
        candidates.append(position)
        position += max(1, round(fps / sample_fps))
    if len(candidates) <= max_frames:
        return candidates
    picks = np.linspace(0, len(candidates) - 1, max_frames)
    return [candidates[int(pick)] for pick in picks]


@pytest.mark.parametrize("seed", range(30))
def test_sampling_follows_the_released_rule(seed):
    rng = np.random.default_rng(seed)
    num_frames, max_frames = int(rng.integers(1, 400)), int(rng.integers(1, 20))
    fps, sample_fps = float(rng.uniform(1, 60)), float(rng.uniform(0.5, 8))
    start = end = None
    if seed % 2:
        start = float(rng.uniform(0, num_frames / fps * 0.9))
        end = start + float(rng.uniform(0, 10))
    found = sample_indices(num_frames, fps, max_frames, sample_fps, start, end)
    expected = plain_rule(num_frames, fps, max_frames, sample_fps, start, end)
    assert found.tolist() == expected
    assert len(found) <= max_frames


def plain_seconds(num_frames, fps, max_frames, start, end):
    """Frame after frame, as a reader that is told where to go and stops at the end."""
    rate = int(fps)
    length = (num_frames + rate - 1) // rate
    first, last = (0, length) if end is None else (start, min(end, length))
    candidates, second = [], first
    while second <= last and second * rate < num_frames:
        candidates.append(second * rate)
        second += 1
    if len(candidates) <= max_frames:
        return candidates
    picks = np.linspace(0, len(candidates) - 1, max_frames, dtype=int)
    return [candidates[pick] for pick in picks]


@pytest.mark.parametrize("seed", range(30))
def test_sampling_by_seconds_follows_the_released_rule(seed):
    rng = np.random.default_rng(seed)
    num_frames, max_frames = int(rng.integers(60, 3000)), int(rng.integers(1, 70))
    fps = float(rng.uniform(1, 60))
    start, end = (0, int(rng.integers(1, 90))) if seed % 2 else (None, None)
    found = second_indices(num_frames, fps, max_frames, start, end)
    assert found.tolist() == plain_seconds(num_frames, fps, max_frames, start, end)


def test_the_rate_is_rounded_down_and_both_ends_are_included():
    found = second_indices(1800, 29.97, 64, 0, 31)  # a minute, of which 31 s
    assert found.tolist() == [29 * second for second in range(32)]
    assert found.tolist() != sample_indices(1800, 29.97, 64, 1.0, 0, 31).tolist()
    with pytest.raises(ValueError, match="holds no frame"):
        second_indices(36, 8.0, 12, start=5.0)
    for fps in (0.5, float("nan")):
        with pytest.raises(ValueError, match="must be positive"):
            second_indices(36, fps)


def test_the_released_presets_have_the_rule_of_their_program():
    rules = {
        name: get_preset(name, "released").model.sampling
        for name in ("msrvtt", "msvd", "lsmdc", "didemo", "activitynet")
    }
    seconds = [name for name, rule in rules.items() if rule == "seconds"]
    assert seconds == ["didemo", "activitynet"]


def test_frames_are_read_by_the_rule_that_is_asked_for(ramp_video):
    spec = FrameSpec(4, 1.0, 48, (0.5,) * 3, (0.5,) * 3, "seconds")
    item = VideoItem("ramp", ramp_video, 0.0, 31.0)
    found = decode(item, spec)
    wanted = resize_crop(read_frames(ramp_video, 4, 1.0, 0, 31, "seconds"), 48)
    np.testing.assert_array_equal(found, wanted)
    assert len(found) == 4
    with pytest.raises(VideoError, match="rule must be 'stride' or 'seconds'"):
        read_frames(ramp_video, rule="minutes")


def test_a_built_in_clip_gives_twelve_frames_from_first_to_last():
    found = sample_indices(36, 8.0, 12, 8.0)
    assert len(found) == 12
    assert (found[0], found[-1]) == (0, 35)


@pytest.mark.parametrize(
    "arguments",
    [(0, 8.0), (36, 0.0), (36, float("nan")), (36, 8.0, 0)],
)
def test_impossible_numbers_are_refused(arguments):
    with pytest.raises(ValueError, match="must be positive"):
        sample_indices(*arguments)


def test_a_segment_outside_the_video_is_refused():
    with pytest.raises(ValueError, match="holds no frame"):
        sample_indices(36, 8.0, 12, 8.0, start=5.0)


def test_reads_the_sampled_frames_of_a_real_mp4(ramp_video):
    frames = read_frames(ramp_video, max_frames=6, sample_fps=8.0)
    assert frames.shape == (6, 48, 64, 3)
    assert frames.dtype == np.uint8
    expected = 5 * sample_indices(40, 8.0, 6, 8.0) + 20
    assert np.abs(frames.mean(axis=(1, 2, 3)) - expected).max() < 4


def test_reads_a_segment(ramp_video):
    frames = read_frames(ramp_video, 12, 8.0, start=2.0, end=3.0)
    expected = 5 * np.arange(16, 25) + 20
    assert np.abs(frames.mean(axis=(1, 2, 3)) - expected).max() < 4


def test_a_missing_empty_or_foreign_file_is_named(tmp_path):
    with pytest.raises(VideoError, match=r"nowhere\.mp4 does not exist"):
        read_frames(tmp_path / "nowhere.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match=r"empty\.mp4 is an empty file"):
        read_frames(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("not a video" * 100)
    with pytest.raises(VideoError, match=r"text\.mp4 cannot be opened"):
        read_frames(tmp_path / "text.mp4")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_video_is_refused_in_one_sentence(ramp_video, tmp_path, share):
    whole = ramp_video.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(VideoError, match=r"cut\.mp4 cannot be") as caught:
        read_frames(cut)
    assert "\n" not in str(caught.value)


@pytest.mark.shared
def test_rotated_phone_videos_decode_upright(shared):
    shapes = {
        angle: read_frames(shared / "media" / f"rotated_{angle}.mov").shape[1:3]
        for angle in (0, 90, 180, 270)
    }
    assert shapes[0] == shapes[180] == (320, 568)
    assert shapes[90] == shapes[270] == (568, 320)


@pytest.mark.shared
def test_a_corrupted_video_is_refused(shared):
    with pytest.raises(VideoError, match=r"corrupted\.mp4"):
        read_frames(shared / "media" / "corrupted.mp4")


@pytest.mark.parametrize(
    ("height", "width"), [(90, 121), (121, 90), (40, 64), (64, 64)]
)
def test_resizing_equals_pillow_to_one_grey_level(height, width):
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    size, short = 64, min(height, width)
    new = (size * width // short, size * height // short)
    picture = Image.fromarray(frame).resize(new, Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in new)
    expected = np.asarray(picture.crop((left, top, left + size, top + size)))
    found = resize_crop(frame[None], size)[0]
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_pixels_are_standardised_per_channel():
    frames = np.full((2, 4, 4, 3), 255, dtype=np.uint8)
    pixels = normalise(frames, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    assert pixels.shape == (2, 3, 4, 4)
    assert pixels[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]


def test_padding_marks_the_real_frames():
    pixels, mask = pad_frames(torch.ones(3, 3, 2, 2), 5)
    assert mask.tolist() == [True, True, True, False, False]
    assert pixels[mask].eq(1).all()
    assert pixels[~mask].eq(0).all()
    with pytest.raises(ValueError, match="1 to 5 frames to pad, got 0"):
        pad_frames(torch.ones(0, 3, 2, 2), 5)
