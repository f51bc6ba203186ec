"""Videos of every kind show at every second what a player shows there."""

import av
import numpy as np
import odd_videos
import pytest
from odd_videos import KINDS, Kind

from glscl.data import decoders
from glscl.data.frames import read_frames, resampled, sample_timeline
from glscl.data.loader import FrameSpec
from glscl.data.split import VideoItem
from glscl.data.timeline import Timeline
from glscl.data.verify import verify
from glscl.data.video import VideoError, VideoReader
from glscl.search.windows import Windows, read_chunks


@pytest.fixture(scope="module", params=KINDS, ids=str)
def made(request, tmp_path_factory):
    kind = request.param
    path = odd_videos.write(tmp_path_factory.mktemp("odd") / f"v{kind.suffix}", kind)
    return kind, path, *odd_videos.shown(path, kind.turned)


def same(one, other):
    return np.abs(one.astype(int) - other).max() <= 2


def test_the_time_axis_is_that_of_a_player(made):
    kind, path, times, _ = made
    reader = VideoReader(path)
    assert len(reader.timeline.times) == len(times)
    assert np.abs(reader.timeline.times - times).max() < 2e-3
    meant = odd_videos.seconds_of(kind, 120)
    assert abs(reader.timeline.end - (meant[-1] + 1 / kind.fps)) < 4.1 / kind.fps


@pytest.mark.parametrize("seed", range(3))
def test_every_sampled_frame_is_the_one_of_a_full_decode(made, seed):
    _, path, times, frames = made
    reader = VideoReader(path)
    rng = np.random.default_rng(seed)
    seconds = np.sort(rng.uniform(0, reader.timeline.end, 9))
    found = reader.read(reader.timeline.index_at(seconds))
    for second, pixels in zip(seconds, found, strict=True):
        number = max(0, int(np.searchsorted(times, second + 1e-6, side="right")) - 1)
        # A second on the edge of a frame may fall to either side.
        near = np.abs(times - second).min() < 2e-3
        numbers = (number, number + 1, number - 1) if near else (number,)
        assert any(same(pixels, frames[n % len(frames)]) for n in numbers)


def test_frames_sampled_by_time_are_the_ones_shown_then(made):
    """At two a second; where the rate is constant, the released rule says the same."""
    _, path, times, frames = made
    timeline = VideoReader(path).timeline
    if timeline.constant:
        every = np.arange(0, len(frames), round(timeline.fps / 2))
    else:
        seconds = np.arange(0, timeline.end, 0.5)
        every = np.searchsorted(times, seconds + 2e-3, side="right") - 1
        every = np.unique(every.clip(min=0))
    found = read_frames(path, 100, 2.0)
    assert len(found) == len(every)
    for number, pixels in zip(every, found, strict=True):
        assert same(pixels, frames[number])


def test_a_search_reports_the_second_of_each_frame(made):
    _, path, times, frames = made
    spec = FrameSpec(6, 2.0, 48, (0.5,) * 3, (0.5,) * 3)
    chunks = [*read_chunks(path, 0, spec, Windows(1.5, 0.5))]
    assert not any(chunk.error for chunk in chunks)
    windows = 0
    for chunk in chunks:
        for slots, seconds in zip(chunk.frame_slots, chunk.times, strict=True):
            windows += 1
            for slot, second in zip(slots[slots >= 0], seconds, strict=False):
                number = int(np.abs(times - second).argmin())
                assert abs(times[number] - second) < 5e-3
                height, width, _ = frames[number].shape  # 48 × 64, or turned
                top, left = (height - 48) // 2, (width - 48) // 2
                whole = frames[number][top : top + 48, left : left + 48]
                assert same(chunk.frames[slot], whole)
    assert windows > 2


@pytest.mark.parametrize("seed", range(20))
def test_a_varying_rate_is_sampled_at_even_times(seed):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.01, 0.6, 200)) - 0.01
    timeline = Timeline(times, times[-1] + 0.1, 200 / times[-1], False)
    start, end = 3.0, float(rng.uniform(5, 20))
    found = sample_timeline(timeline, 1000, 4.0, start, end)
    wanted = np.arange(start, end, 0.25)
    shown = [times[times <= second + 1e-4].size - 1 for second in wanted]
    np.testing.assert_array_equal(found, np.unique(shown))
    few = sample_timeline(timeline, 5, 4.0, start, end)
    assert len(few) == 5
    assert {few[0], few[-1]} == {found[0], found[-1]}


def test_a_segment_after_the_last_frame_is_refused():
    timeline = Timeline(np.array([0.0, 1.0, 1.5]), 2.0, 1.5, False)
    with pytest.raises(ValueError, match=r"from 2\.0 to None s holds no frame"):
        sample_timeline(timeline, start=2.0)


def test_a_copy_of_a_varying_rate_keeps_its_length(tmp_path):
    path = odd_videos.write(tmp_path / "v.mp4", Kind(".mp4", "libx264", 0, "variable"))
    copied = sum(len(chunk) for chunk in resampled(path, 5.0))
    assert copied == int(np.ceil(VideoReader(path).timeline.end * 5.0))


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".avi", ".mov", ".flv"])
def test_a_file_is_read_whatever_its_suffix_says(tmp_path, suffix):
    path = odd_videos.write(tmp_path / f"v{suffix}", Kind(suffix, "libx264", 0))
    named = tmp_path / "named.mp4"
    named.write_bytes(path.read_bytes())
    one, other = VideoReader(path), VideoReader(named)
    np.testing.assert_array_equal(other.timeline.times, one.timeline.times)
    assert other.decoder == one.decoder
    last = np.array([len(one.timeline.times) - 1])
    np.testing.assert_array_equal(other.read(last), one.read(last))


def test_a_check_says_which_decoder_reads(tmp_path):
    path = odd_videos.write(tmp_path / "v.avi", Kind(".avi", "mpeg4", 2))
    (found,) = verify([VideoItem("v", path)]).videos
    assert (found.status, found.decoder) == ("ok", "PyAV")


def test_reading_back_and_forth_gives_the_same_frames(made):
    _, path, _, frames = made
    reader = VideoReader(path)
    for indices in ([100, 110], [3, 50], [60], [0, 1, 2, 119]):
        indices = np.minimum(indices, len(frames) - 1)
        for index, pixels in zip(indices, reader.read(indices), strict=True):
            assert same(pixels, frames[index])


@pytest.mark.parametrize(
    ("kind", "decoder"),
    [
        (Kind(".mp4", "libx264", 2), "decord"),
        (Kind(".webm", "libvpx"), "decord"),
        (Kind(".mp4", "libx264", 2, "variable"), "PyAV"),
        (Kind(".mp4", "libx264", 2, hidden=45), "PyAV"),
        (Kind(".avi", "libx264"), "PyAV"),
        (Kind(".mkv", "mpeg4", 2), "PyAV"),
    ],
    ids=str,
)
def test_decord_reads_constant_rate_and_pyav_the_rest(
    tmp_path, monkeypatch, kind, decoder
):
    pytest.importorskip("decord")
    path = odd_videos.write(tmp_path / f"v{kind.suffix}", kind)
    assert VideoReader(path).decoder == "PyAV"  # it is small
    assert odd_videos.as_large(path, monkeypatch).source.name == decoder


def assert_same_frames(video, reader, every):
    np.testing.assert_array_equal(video.timeline.times, reader.timeline.times)
    pixels = reader.read(every)
    np.testing.assert_array_equal(np.concatenate([*video.read(every)]), pixels)


@pytest.mark.parametrize("decord", [True, False], ids=["decord", "without"])
def test_large_files_have_the_frames_that_small_ones_have(made, decord, monkeypatch):
    """Indices and pixels, in one pass and by jumps, also where there is no decord."""
    _, path, _, _ = made
    if not decord:
        monkeypatch.setattr(decoders, "_decord", lambda: None)
    reader, large = VideoReader(path), odd_videos.as_large(path, monkeypatch)
    every = np.arange(len(reader.timeline.times))
    assert_same_frames(large, reader, every)
    for index in every[[100, 3, 3, 55, 56, len(every) - 1]]:
        assert_same_frames(large, reader, np.array([index]))


def test_both_decoders_give_the_same_frames_of_built_in_clips(clips_root, monkeypatch):
    pytest.importorskip("decord")
    for path in sorted(clips_root.rglob("*.mp4")):
        reader, large = VideoReader(path), odd_videos.as_large(path, monkeypatch)
        assert (reader.decoder, large.source.name) == ("PyAV", "decord")
        assert_same_frames(large, reader, np.arange(len(reader.timeline.times)))


@pytest.mark.shared
def test_both_decoders_give_the_same_frames_of_public_files(shared, monkeypatch):
    pytest.importorskip("decord")
    compared = 0
    for path in sorted((shared / "media").glob("*.m*")):
        reader, large = VideoReader(path), odd_videos.as_large(path, monkeypatch)
        every = np.arange(0, len(reader.timeline.times), 7)
        try:
            assert_same_frames(large, reader, every)
        except VideoError:  # then the other says so, too
            with pytest.raises(ValueError, match=r"corrupt|missing|Invalid data"):
                [*large.read(every)]
            continue
        compared += 1
    assert compared


def test_a_file_without_video_is_refused(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=44100, layout="mono")
        silence = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 44100
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with pytest.raises(
        VideoError, match=r"sound\.mp4 cannot be opened: it has no video"
    ):
        VideoReader(path)


def test_no_whole_file_is_called_damaged(made):
    _, path, _, frames = made
    assert VideoReader(path).decode_all() == len(frames)


def _damaged(path, rng):
    """Flip some bits of one packet after the first of a file."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size and p.pos]
        spans = [(p.pos, p.size) for p in packets[1:]]
    start, size = spans[rng.integers(len(spans))]
    data = bytearray(path.read_bytes())
    for place in rng.integers(0, size, 12):
        data[start + place] ^= 1 << rng.integers(8)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("kind", "least"),
    [(Kind(".mp4", "libx264"), 0.7), (Kind(".mp4", "mpeg4"), 0.7)],
    ids=str,
)
def test_pictures_that_a_decoder_makes_up_are_refused(tmp_path, kind, least):
    """Damage that FFmpeg conceals, by black or repeated blocks; some bits cannot tell."""
    path = odd_videos.write(tmp_path / "v.mp4", kind)
    _, whole = odd_videos.shown(path)
    original = path.read_bytes()
    wrong = read = thorough = 0
    for seed in range(24):
        path.write_bytes(original)
        _damaged(path, np.random.default_rng(seed))
        try:
            shown = odd_videos.shown(path)[1]
        except av.FFmpegError:
            continue  # not concealed
        if len(shown) == len(whole) and all(map(same, shown, whole)):
            continue
        wrong += 1
        for way in ("read", "decode_all"):
            try:
                reader = VideoReader(path)
                numbers = np.arange(len(reader.timeline.times))
                reader.read(numbers) if way == "read" else reader.decode_all()
            except VideoError:
                read, thorough = read + (way == "read"), thorough + (way != "read")
    assert wrong > 10
    assert read >= least * wrong
    assert thorough >= least * wrong
