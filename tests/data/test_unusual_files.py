"""Files that few programs write: joined, with covers, of several sizes, of odd codecs."""

import os
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import odd_videos
import pytest
from odd_videos import Kind, picture

from glscl.data import decoders, timeline
from glscl.data.video import VideoError, VideoReader


def encoded(codec="libx264", size=odd_videos.SIZE, frames=30, first=0, rate=25):
    """The packets of a stream of frames that say their number."""
    context = av.CodecContext.create(codec, "w")
    context.height, context.width = size
    context.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    context.time_base, context.framerate = Fraction(1, rate), Fraction(rate)
    context.options = {} if codec == "mjpeg" else {"g": "12", "bf": "0"}
    for number in range(first, first + frames):
        frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
        frame = frame.reformat(*size[::-1], "yuv420p")
        frame.pts, frame.time_base = number, context.time_base
        yield from context.encode(frame)
    yield from context.encode()


def written(path, *streams, cover=False):
    """A file of streams, each given as lists of packets with the size of the first."""
    with av.open(str(path), "w") as out:
        for number, (codec, size, _) in enumerate(streams):
            stream = out.add_stream(codec, rate=25)
            stream.height, stream.width = size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            if cover and number == 0:
                stream.disposition = av.stream.Disposition.attached_pic
        for number, (_, _, packets) in enumerate(streams):
            for packet in packets:
                packet.stream = out.streams[number]
                out.mux(packet)
    return path


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_frames_have_the_first_size_where_it_changes(tmp_path, suffix, monkeypatch):
    sizes = ((48, 64), (96, 128), (64, 48))
    parts = (encoded(size=s, first=30 * i) for i, s in enumerate(sizes))
    stream = "libx264", sizes[0], [packet for part in parts for packet in part]
    path = written(tmp_path / f"v{suffix}", stream)
    found = VideoReader(path).read(np.arange(90))
    with av.open(str(path)) as container:
        shown = [f.reformat(64, 48, "rgb24") for f in container.decode(video=0)]
    for pixels, frame in zip(found, shown, strict=True):
        assert np.abs(pixels.astype(int) - frame.to_ndarray()).mean() < 4
    monkeypatch.setattr(decoders, "PART_BYTES", 20 * 48 * 64 * 3)  # a change in between
    parts = [*odd_videos.as_large(path, monkeypatch).read(np.arange(90))]
    assert len(parts) == 5
    assert np.abs(np.concatenate(parts).astype(int) - found).mean() < 4


@pytest.mark.parametrize(
    "kind",
    [
        Kind(".ts", "libx264"),
        Kind(".ts", "libx264", 2),
        Kind(".mpg", "mpeg2video", 2),
        Kind(".ts", "libx264", offset=200.0),
    ],
    ids=str,
)
def test_a_stream_whose_clock_begins_anew_goes_on(tmp_path, kind):
    """What ``cat one two > both`` makes: a player shows one after the other."""
    one = odd_videos.write(tmp_path / f"one{kind.suffix}", kind, 60)
    two = odd_videos.write(
        tmp_path / f"two{kind.suffix}", Kind(kind.suffix, kind.codec), 60
    )
    both = tmp_path / f"both{kind.suffix}"
    both.write_bytes(one.read_bytes() + two.read_bytes())
    reader = VideoReader(both)
    np.testing.assert_allclose(reader.timeline.times, np.arange(120) / 25, atol=0.05)
    assert abs(reader.timeline.end - 4.8) < 0.1
    frames = odd_videos.shown(one)[1] + odd_videos.shown(two)[1]
    for number in (3, 59, 60, 61, 119, 10, 90):
        (pixels,) = reader.read(np.array([number]))
        assert np.abs(pixels.astype(int) - frames[number]).max() <= 2


def test_frames_without_time_between_them_are_one(tmp_path):
    packets = [*encoded("mjpeg", frames=40)]
    for number, packet in enumerate(packets):
        packet.pts = packet.dts = number // 4 * 4
    path = written(tmp_path / "v.mkv", ("mjpeg", odd_videos.SIZE, packets))
    reader = VideoReader(path)
    np.testing.assert_allclose(reader.timeline.times, np.arange(0, 40, 4) / 25)
    for number, pixels in enumerate(reader.read(np.arange(10))):
        near = [picture(4 * number + i).astype(int) for i in range(4)]
        assert min(np.abs(pixels - one).mean() for one in near) < 8


def test_frames_are_counted_where_some_have_no_timestamp(tmp_path):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as out:
        odd_videos._fill(out, Kind(".mkv", "libx264", offset=-1.0), 60)
    _, frames = _decoded(path)
    reader = VideoReader(path)
    assert len(reader.timeline.times) == len(frames) == 60
    for number in (2, 24, 25, 38, 59):
        (pixels,) = reader.read(np.array([number]))
        assert np.abs(pixels.astype(int) - frames[number]).max() <= 2


def _decoded(path):
    with av.open(str(path)) as container:
        found = [*container.decode(video=0)]
        return found, [frame.to_ndarray(format="rgb24") for frame in found]


def test_the_picture_of_a_cover_is_no_video(tmp_path):
    small, large = ("mjpeg", (100, 100)), ("libx264", odd_videos.SIZE)
    picture_only = (*small, [*encoded(*small, frames=1)])
    path = written(tmp_path / "song.mp4", picture_only, cover=True)
    with pytest.raises(
        VideoError, match=r"song\.mp4 cannot .*: it has no video stream"
    ):
        VideoReader(path)
    streams = (*small, [*encoded(*small, frames=1)]), (*large, [*encoded(*large)])
    reader = VideoReader(written(tmp_path / "v.mp4", *streams, cover=True))
    assert len(reader.timeline.times) == 30
    assert reader.read(np.array([29])).shape == (1, *odd_videos.SIZE, 3)


def test_of_several_videos_the_first_is_read(tmp_path):
    """decord would take the largest."""
    sizes = odd_videos.SIZE, (96, 128)
    streams = [("libx264", size, [*encoded(size=size)]) for size in sizes]
    reader = VideoReader(written(tmp_path / "v.mp4", *streams))
    assert reader.decoder == "PyAV"
    assert reader.read(np.array([7])).shape == (1, *odd_videos.SIZE, 3)


def test_an_unknown_codec_is_no_damage(tmp_path):
    path = odd_videos.write(tmp_path / "v.mp4", Kind(".mp4", "libx264"), 30)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"xyz1"))
    with pytest.raises(VideoError, match="there is no decoder for its video"):
        VideoReader(path)


def test_without_the_index_of_newer_pyav_the_time_axis_is_the_same(tmp_path):
    assert timeline._constant_index(None, SimpleNamespace()) is None
    path = odd_videos.write(tmp_path / "v.mp4", Kind(".mp4", "libx264", 2))
    first = timeline.read_axis(str(path), lambda: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeline, "_constant_index", lambda *about: None)
        second = timeline.read_axis(str(path), lambda: None)
    np.testing.assert_array_equal(first.stamps, second.stamps)
    assert first[2:] == second[2:]
    assert first.timeline[1:] == second.timeline[1:]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_not_waited_for(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("folder", "pipe"):
        with pytest.raises(VideoError, match=rf"{name}\.mp4 is no file"):
            VideoReader(tmp_path / f"{name}.mp4")
