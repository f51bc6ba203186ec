"""Folders of videos: links, copies of one name, and folders in folders."""

import shutil

import pytest
from typer.testing import CliRunner

from glscl.cli import app
from glscl.data.videofiles import by_relative_name, list_videos
from glscl.model import GLSCL
from glscl.search.build import update

runner = CliRunner()


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
