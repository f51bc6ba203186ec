"""Folders of videos: links, copies of one name, and folders in folders."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glscl.cli import app
from glscl.data.frames import read_frames
from glscl.data.prepare import prepare
from glscl.data.split import VideoItem
from glscl.data.verify import read_unreadable
from glscl.data.videofiles import by_relative_name, list_videos
from glscl.model import GLSCL
from glscl.search.build import update

runner = CliRunner()
NOT_TEXT = os.fsdecode(b"b\xe9.mp4")  # latin-1


@pytest.fixture
def folder(ramp_video, tmp_path):
    root = tmp_path / "videos"
    (root / "sub").mkdir(parents=True)
    shutil.copy(ramp_video, root / "clip.mp4")
    return root


def test_links_to_folders_above_are_no_loop(folder, tmp_path):
    (folder / "sub" / "up").symlink_to("..")
    (folder / "self").symlink_to(".")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(folder / "clip.mp4", elsewhere / "other.mp4")
    (folder / "link").symlink_to(elsewhere)
    assert [path.name for path in list_videos(folder)] == ["clip.mp4", "other.mp4"]


def test_links_that_lead_nowhere_are_skipped_by_name(folder, tmp_path):
    (folder / "away.mp4").symlink_to("/gone/away.mp4")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    model = GLSCL.from_preset("mini", temporal_layers=0, local=False)
    report = update(tmp_path / "index", folder, model, progress=False)
    assert list(report.added) == ["clip.mp4"]
    assert set(report.broken) == {"away.mp4", "loop.mp4"}
    (folder / "away.mp4").unlink()
    shutil.copy(folder / "clip.mp4", folder / "away.mp4")
    report = update(tmp_path / "index", folder, model, progress=False)
    assert [*report.added, *report.changed] == ["away.mp4"]


def test_files_of_one_name_are_kept_apart_or_refused(folder, tmp_path):
    for name in ("a", "b"):
        (folder / name).mkdir()
        shutil.copy(folder / "clip.mp4", folder / name / "GX01.MP4")
    out = tmp_path / "out"
    result = runner.invoke(app, ["data", "prepare", str(folder), str(out)])
    assert result.exit_code == 0, result.output
    assert "3 videos written" in result.output
    assert sorted(by_relative_name(out, list_videos(out))) == [
        "a/GX01",
        "b/GX01",
        "clip",
    ]
    shutil.copy(folder / "clip.mp4", folder / "a" / "GX01.mov")
    for command in (["prepare", str(folder), str(out)], ["verify", str(folder)]):
        result = runner.invoke(app, ["data", *command])
        assert result.exit_code == 1
        assert "Two files are named a/GX01: " in result.output
        assert "GX01.MP4" in result.output
        assert "GX01.mov" in result.output


def test_copies_inside_the_folder_are_no_videos_of_it(folder):
    command = ["data", "prepare", str(folder), str(folder / "small")]
    assert "1 videos written" in runner.invoke(app, command).output
    again = runner.invoke(app, command).output
    assert "0 videos written" in again
    assert len(list_videos(folder)) == 2


@pytest.fixture
def locked(folder, monkeypatch):
    """``sub``, with a video, which the system refuses to list."""
    shutil.copy(folder / "clip.mp4", folder / "sub" / "kept.mp4")
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "sub":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    return folder / "sub"


def test_a_folder_that_cannot_be_listed_is_named(locked, folder):
    unreadable = {}
    found = list_videos(folder, unreadable)
    assert [path.name for path in found] == ["clip.mp4"]
    assert unreadable == {locked: "Permission denied"}
    with pytest.raises(PermissionError):
        list_videos(folder)
    result = runner.invoke(app, ["data", "verify", str(folder)])
    assert result.exit_code == 0
    assert f"skipped {locked}: Permission denied" in result.output
    assert "1 videos checked" in result.output


def test_names_that_are_not_text_are_shown_as_words(folder, tmp_path):
    shutil.copy(folder / "clip.mp4", folder / "sub" / NOT_TEXT)
    (folder / NOT_TEXT).write_text("no video")
    (folder / "clip.mp4").rename(folder / "über.mp4")
    report = tmp_path / "report.json"
    result = runner.invoke(app, ["data", "verify", str(folder), "--out", str(report)])
    assert result.exit_code == 1
    assert f"Video {folder}/b?.mp4 cannot be opened" in result.output
    assert "3 videos checked, 1 unreadable" in result.output
    assert "über" in report.read_text(encoding="utf-8")
    assert read_unreadable(report) == [NOT_TEXT.removesuffix(".mp4")]
    out = tmp_path / "out"
    result = runner.invoke(app, ["data", "prepare", str(folder), str(out)])
    assert "2 videos written" in result.output
    assert (out / "sub" / NOT_TEXT).exists()


def test_a_colon_in_a_name_is_no_protocol(folder, monkeypatch):
    (folder / "clip.mp4").rename(folder / "12:30:05.mp4")
    monkeypatch.chdir(folder)
    assert read_frames("12:30:05.mp4").shape == (5, 48, 64, 3)
    assert runner.invoke(app, ["data", "verify", "."]).exit_code == 0
    item = VideoItem("12:30:06", Path("12:30:05.mp4"))
    assert prepare([item], ".", workers=1).problems == {}
    assert read_frames("12:30:06.mp4").shape == (5, 48, 64, 3)
