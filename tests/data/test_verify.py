"""Checking and copying videos in processes that crash, hang and meet broken files."""

import json
import random

import numpy as np
import pytest
import replicas
from typer.testing import CliRunner

from glscl.cli import app
from glscl.data.annotations import AnnotationError
from glscl.data.frames import read_frames, resampled
from glscl.data.prepare import prepare
from glscl.data.split import VideoItem
from glscl.data.verify import read_unreadable, verify
from glscl.data.video import VideoReader
from glscl.data.videofiles import list_videos

runner = CliRunner()


def items_of(folder):
    return [VideoItem(path.stem, path) for path in list_videos(folder)]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, write_video):
    """200 copies of noise, cut or with flipped bits, and one that is whole."""
    folder = tmp_path_factory.mktemp("damaged")
    rng = random.Random(0)
    noise = np.random.default_rng(0).integers(0, 256, (24, 48, 64, 3), dtype=np.uint8)
    whole = write_video(folder / "whole.mp4", noise).read_bytes()
    for number in range(200):
        data = bytearray(whole)
        if number % 2:
            del data[rng.randrange(len(data)) :]
        else:
            for _ in range(rng.choice([1, 10, 300])):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        kind = "cut" if number % 2 else "flipped"
        (folder / f"{kind}{number:03d}.mp4").write_bytes(data)
    return folder


def test_every_one_of_200_damaged_videos_is_accounted_for(damaged):
    items = items_of(damaged)
    report = verify(items, workers=1)
    assert [video.id for video in report.videos] == [item.id for item in items]
    status = {video.id: video.status for video in report.videos}
    assert status["whole"] == "ok"
    assert all(status[name] != "ok" for name in status if name.startswith("cut"))
    assert any(status[name] != "ok" for name in status if name.startswith("flipped"))
    for video in report.videos:
        assert (video.frames is None) == bool(video.problem) == (video.status != "ok")
        assert "\n" not in video.problem


def test_a_thorough_check_finds_damage_that_a_decoder_conceals(damaged):
    items = [item for item in items_of(damaged) if not item.id.startswith("cut")]
    quick, thorough = (
        {video.id for video in verify(items, workers=1, thorough=way).bad}
        for way in (False, True)
    )
    assert quick < thorough
    assert "whole" not in thorough


def test_a_report_remembers_what_is_unreadable(ramp_video, tmp_path):
    items = [VideoItem("good", ramp_video), VideoItem("gone", tmp_path / "no.mp4")]
    report = verify(items, workers=1)
    report.write(tmp_path / "report.json")
    assert read_unreadable(tmp_path / "report.json") == ["gone"]
    content = json.loads((tmp_path / "report.json").read_text())
    assert [video["status"] for video in content["videos"]].count("ok") == 1
    assert len(content["videos"]) == 2
    assert content["videos"][0]["frames"] == 40
    assert "2 videos checked, 1 unreadable" in report.summary()
    (tmp_path / "report.json").write_text('{"videos": [{"id": "x"}]}')
    with pytest.raises(AnnotationError, match="video 1: no 'status'"):
        read_unreadable(tmp_path / "report.json")


def test_a_segment_behind_the_end_is_a_finding(ramp_video):
    item = VideoItem("late", ramp_video, start=50.0, end=60.0)
    (video,) = verify([item], workers=1).videos
    assert video.status == "unreadable"
    assert "holds no frame" in video.problem


@pytest.mark.shared
def test_the_one_corrupted_media_file_is_found(shared):
    report = verify(items_of(shared / "media"), workers=1, thorough=True)
    assert [video.id for video in report.bad] == ["corrupted"]
    sizes = {v.id: (v.width, v.height) for v in report.videos if v.status == "ok"}
    assert sizes["rotated_90"] == sizes["rotated_0"][::-1]


def test_checking_opens_what_reading_opens(ramp_video):
    (found,) = verify([VideoItem("a", ramp_video)]).videos
    assert (found.frames, found.fps, found.width, found.height) == (40, 8.0, 64, 48)
    assert found.decoder == VideoReader(ramp_video).decoder


@pytest.mark.parametrize("fps", [1.0, 3.0, 8.0, 20.0])
def test_resampling_takes_the_frame_of_each_moment(ramp_video, fps):
    frames = np.concatenate(list(resampled(ramp_video, fps, chunk=7)))
    level = frames.mean(axis=(1, 2, 3))
    moments = np.unique(np.round(np.arange(0, 5, 1 / fps) * 8).clip(max=39))
    np.testing.assert_allclose(level, 5 * moments + 20, atol=2)


def test_a_copy_holds_the_frames_that_would_be_sampled(ramp_video, tmp_path):
    item = VideoItem("a.b", ramp_video)
    done = prepare([item], tmp_path, fps=4.0, size=32, workers=1)
    assert (done.written, done.kept, done.problems) == (1, 0, {})
    copy = read_frames(tmp_path / "a.b.mp4", max_frames=5)
    assert copy.shape[1:3] == (32, 42)
    original = read_frames(ramp_video, max_frames=5)
    np.testing.assert_allclose(
        copy.mean(axis=(1, 2, 3)), original.mean(axis=(1, 2, 3)), atol=2
    )


def test_copying_again_keeps_what_is_done_and_names_what_is_broken(
    ramp_video, tmp_path
):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(ramp_video.read_bytes()[:900])
    items = [VideoItem("good", ramp_video), VideoItem("broken", broken)]
    first = prepare(items, tmp_path / "out", size=64, workers=1)
    assert first.written == 1
    assert "cannot be" in first.problems["broken"]
    assert first.bytes_before == ramp_video.stat().st_size
    before = (tmp_path / "out" / "good.mp4").stat().st_mtime_ns
    second = prepare(items, tmp_path / "out", size=64, workers=1)
    assert (second.written, second.kept) == (0, 1)
    assert (tmp_path / "out" / "good.mp4").stat().st_mtime_ns == before
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["good.mp4", "prepared.json"]
    with pytest.raises(ValueError, match="choose another folder"):
        prepare(items, tmp_path / "out", size=32)


@pytest.mark.shared
def test_a_copy_of_a_rotated_video_is_upright(shared, tmp_path):
    item = VideoItem("phone", shared / "media" / "rotated_90.mov")
    prepare([item], tmp_path, size=64, workers=1)
    _, height, width, _ = read_frames(tmp_path / "phone.mp4").shape
    assert (height, width) == (112, 64)


def test_the_commands_verify_and_prepare_end_with_a_status(
    ramp_video, tmp_path, write_video
):
    root = tmp_path / "msvd"
    files = replicas.replica("msvd", root, write_video)
    names = list(files)
    (root / "videos" / files[names[0]]).unlink()
    (root / "videos" / files[names[1]]).write_bytes(ramp_video.read_bytes()[:700])
    command = ["data", "verify", str(root), "--dataset", "msvd", "--workers", "1"]
    result = runner.invoke(app, [*command, "--out", str(tmp_path / "report.json")])
    assert result.exit_code == 1, result.output
    assert "published: 48774" in result.output
    assert f"{len(files)} videos checked, 2 unreadable" in result.output
    assert sorted(read_unreadable(tmp_path / "report.json")) == sorted(names[:2])
    command = ["data", "prepare", str(root), str(tmp_path / "small"), "--workers", "1"]
    result = runner.invoke(app, [*command, "--dataset", "msvd", "--size", "32"])
    assert result.exit_code == 1, result.output
    assert f"{len(files) - 2} videos written" in result.output
    result = runner.invoke(app, ["data", "verify", str(tmp_path / "small")])
    assert result.exit_code == 0, result.output
    result = runner.invoke(app, ["data", "verify", str(tmp_path / "nowhere")])
    assert result.exit_code == 1
    assert "There is no video below" in result.output
