"""A decoder that hangs or crashes costs the file and one sentence, everywhere."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import av
import faulty_decoders
import numpy as np
import pytest

from glscl.data import decoders, video
from glscl.data.frames import read_frames
from glscl.data.loader import FrameSpec, VideoDataset, encode_frames
from glscl.data.prepare import prepare
from glscl.data.split import CaptionItem, Split, VideoItem
from glscl.data.verify import read_unreadable, verify
from glscl.data.video import VideoError, VideoReader
from glscl.search.windows import Windows, decoded_chunks

SPEC = FrameSpec(6, 2.0, 32, (0.5,) * 3, (0.5,) * 3)
PROBLEMS = {
    "crash": (r"crash\.mp4 cannot be opened: the decoder crashed", "crash"),
    "hang": (r"hang\.mp4 cannot be opened: nothing was decoded for 3 s", "timeout"),
    "memory": (r"memory\.mp4 cannot be opened: the decoder crashed", "machine"),
}


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.setattr(video, "PROGRAM", faulty_decoders.PROGRAM)
    monkeypatch.setattr(video, "LIMIT", 3.0)
    monkeypatch.setattr(video, "_idle", [])


@pytest.fixture
def folder(ramp_video, tmp_path):
    for name in ("a", "crash", "hang", "memory", "z"):
        shutil.copy(ramp_video, tmp_path / f"{name}.mp4")
    return tmp_path


def items(folder):
    return [VideoItem(path.stem, path) for path in sorted(folder.glob("*.mp4"))]


@pytest.mark.parametrize("name", PROBLEMS)
def test_reading_frames_ends_in_one_sentence_and_the_next_file_is_read(
    faulty, folder, name
):
    message, kind = PROBLEMS[name]
    started = time.perf_counter()
    with pytest.raises(VideoError, match=message) as caught:
        read_frames(folder / f"{name}.mp4")
    assert caught.value.kind == kind
    assert time.perf_counter() - started < 15
    assert read_frames(folder / "a.mp4").shape == (5, 48, 64, 3)


def test_a_video_whose_decoder_is_gone_says_so_again(ramp_video):
    reader = VideoReader(ramp_video)
    reader._process.process.kill()
    for _ in range(2):
        with pytest.raises(
            VideoError, match=r"frames 0 to 3 of 40: the decoder crashed"
        ):
            reader.read(np.array([0, 3]))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_index_loses_only_those_files(faulty, folder, workers):
    paths = [item.path for item in items(folder)]
    found = {
        paths[chunk.file].stem: chunk
        for chunk in decoded_chunks(paths, SPEC, Windows(), workers)
    }
    assert {name for name, chunk in found.items() if chunk.error} == set(PROBLEMS)
    assert str(found["hang"].error).endswith("nothing was decoded for 3 s.")
    assert [
        name
        for name, chunk in found.items()
        if chunk.error and chunk.error.kind == "machine"
    ] == ["memory"]


@pytest.mark.parametrize("workers", [0, 1])
def test_training_names_the_file(faulty, folder, workers):
    for name in PROBLEMS:
        split = Split(
            "train",
            (VideoItem("a", folder / "a.mp4"), VideoItem(name, folder / f"{name}.mp4")),
            (CaptionItem("a", 0), CaptionItem("b", 1)),
        )
        with pytest.raises(VideoError, match=PROBLEMS[name][0]):
            encode_frames(None, VideoDataset(split, SPEC), workers=workers)


def test_checking_reports_each(faulty, folder, tmp_path):
    report = verify(items(folder), workers=1)
    status = {one.id: one.status for one in report.videos}
    assert status == {"a": "ok", "z": "ok"} | {n: k for n, (_, k) in PROBLEMS.items()}
    report.write(tmp_path / "report.json")
    assert read_unreadable(tmp_path / "report.json") == ["crash", "hang"]


def test_copying_loses_only_those_files(faulty, folder):
    done = prepare(items(folder), folder / "out", size=32, workers=1)
    assert done.written == 2
    assert set(done.problems) == set(PROBLEMS)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_ctrl_c_ends_a_decoder_that_hangs(folder, workers):
    code = (  # a shell starts what runs in its background with SIGINT ignored
        "import signal, sys, faulty_decoders; faulty_decoders.use(600.0); "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from glscl.cli import app; app(sys.argv[1:])"
    )
    command = ["index", ".", "--model", "mini", "--workers", workers]
    (folder / "crash.mp4").unlink()
    path = os.pathsep.join([os.path.dirname(faulty_decoders.__file__), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    try:
        give_up = time.monotonic() + 60
        while not (folder / "hang.mp4.begun").exists():
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(60) != 0  # the decoder would hang for 600 s
    finally:
        process.kill()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_what_only_this_machine_lacks_is_no_fault_of_the_file(
    ramp_video, monkeypatch, number
):
    def refuse(path, *arguments):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(VideoError, match=os.strerror(number)) as caught:
        VideoReader(ramp_video)
    assert caught.value.kind == "machine"
    (chunk,) = decoded_chunks([ramp_video], SPEC, Windows())
    assert chunk.error.kind == "machine"


def test_errors_of_decoders_are_the_files_or_the_machines():
    for error in (MemoryError(), OSError(errno.ENOSPC, "full"), av.MemoryError(12, "")):
        assert decoders.kind_of(error) == "machine"
    for error in (ValueError("no video"), av.InvalidDataError(1094995529, "invalid")):
        assert decoders.kind_of(error) == "error"


def test_without_decoders_nothing_is_read_and_no_file_blamed(ramp_video, monkeypatch):
    monkeypatch.setattr(video, "PROGRAM", "json")
    monkeypatch.setattr(video, "_idle", [])
    with pytest.raises(RuntimeError, match="Videos cannot be decoded here") as caught:
        read_frames(ramp_video)
    assert not isinstance(caught.value, VideoError)


def test_the_version_of_the_decoders_is_known():
    assert video.decoder_version().startswith(f"av {av.__version__}")
