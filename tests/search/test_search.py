"""Indexing a folder and searching it: what is encoded, what is found, what is refused."""

import datetime
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import toy_model, toy_related
from typer.testing import CliRunner

from glscl.cli import app
from glscl.data import frames as framing
from glscl.data.video import VideoError
from glscl.evaluate import frame_spec
from glscl.gim import frame_weights
from glscl.retriever import VideoFeatures
from glscl.search import VideoIndex, Where, Windows, table
from glscl.search.build import check_model, search_model, update
from glscl.search.table import Snapshot
from glscl.search.windows import read_chunks

WINDOWS = Windows(1.5, 0.5)


@pytest.fixture(scope="module")
def model():
    return toy_model()


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write_video):
    """Six short videos in two folders, one of them long enough to be cut."""
    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for i, length in enumerate((12, 9, 60, 12, 15, 10)):
        folder = root / ("first" if i % 2 else "second")
        folder.mkdir(exist_ok=True)
        start = rng.integers(0, 256, (1, 64, 64, 3))
        drift = rng.integers(-3, 4, (length, 1, 1, 3)).cumsum(axis=0)
        pixels = (start + drift).clip(0, 255).astype(np.uint8)
        path = write_video(folder / f"clip {i}.mp4", pixels)
        os.utime(path, (1_000_000 + i, 1_000_000 + i))
    return root


@pytest.fixture
def folder(clips, tmp_path):
    shutil.copytree(clips, tmp_path / "videos")
    return tmp_path / "videos"


def build(folder, model, **options):
    path = folder.parent / "index"
    options = {"windows": WINDOWS, "progress": False, **options}
    return VideoIndex.build(folder, path, model, **options)


def content(path):
    """Every window: its file, start, times and features, in one order."""
    snapshot = Snapshot(str(path))
    rows = np.arange(len(snapshot))
    names = snapshot.table.take(rows, columns=["path", "start"]).to_pylist()
    features = snapshot.features(rows)
    return sorted(
        (name["path"], name["start"], times.tobytes(), frames.tobytes())
        for name, times, frames in zip(
            names, features["times"], features["frames"], strict=True
        )
    )


@torch.no_grad()
def encoded(model, path):
    """A video that is one window, by the model's own encoder."""
    spec = frame_spec(model.backbone, model.config)
    pictures = framing.read_frames(path, spec.max_frames, spec.sample_fps)
    pixels = framing.preprocess(pictures, spec.image_size, spec.mean, spec.std)
    padded, mask = framing.pad_frames(pixels, spec.max_frames)
    return model.encode_video(padded[None], mask[None])


def paths_of(index):
    """The file of every row."""
    rows = np.arange(len(index))
    return index.snapshot.table.take(rows, columns=["path"])["path"].to_pylist()


@pytest.fixture(scope="module")
def index(clips, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "index"
    return VideoIndex.build(clips, path, model, WINDOWS, progress=False)


# ---- building ----------------------------------------------------------------------


def test_every_video_is_there_and_the_long_one_is_cut(index):
    assert len(index.report.added) == 6
    names = [name for name, *_ in content(index.path)]
    assert sorted(set(names)) == sorted(index.report.added)
    assert names.count("second/clip 2.mp4") > 5
    assert names.count("first/clip 1.mp4") == 1
    assert {"decode", "encode", "write", "total"} == set(index.report.seconds)


def test_an_index_holds_what_the_model_says_of_a_video(index, model, clips):
    video = encoded(model, clips / "first/clip 1.mp4")
    mask = video.mask[0]
    (row,) = [i for i, path in enumerate(paths_of(index)) if "clip 1" in path]
    found = index.video(index.snapshot.features(np.array([row])))
    n = int(mask.sum())
    assert torch.equal(found.mask, mask[None])
    torch.testing.assert_close(
        found.frames[0, :n], video.frames[0, :n], rtol=2e-3, atol=5e-3
    )
    torch.testing.assert_close(found.concepts, video.concepts, rtol=2e-3, atol=2e-3)


def test_only_what_changed_is_encoded_again(folder, model, monkeypatch):
    before = build(folder, model)
    again = build(folder, model)
    assert again.report.unchanged == 6
    assert again.report.windows == 0
    (folder / "first/clip 1.mp4").unlink()
    shutil.copy(folder / "second/clip 0.mp4", folder / "new.mp4")
    changed = folder / "second/clip 4.mp4"
    changed.write_bytes((folder / "first/clip 3.mp4").read_bytes())
    report = build(folder, model).report
    assert report.removed == ["first/clip 1.mp4"]
    assert report.added == ["new.mp4"]
    assert report.changed == ["second/clip 4.mp4"]
    assert report.unchanged == 4
    fresh = folder.parent / "fresh"
    VideoIndex.build(folder, fresh, model, WINDOWS, progress=False)
    assert content(folder.parent / "index") == content(fresh)
    assert before.search("a red circle")  # a reader keeps what it has opened
    assert not [m for m in before.refreshed().search("a", k=9) if "clip 1" in str(m)]


def test_broken_files_are_named_and_not_tried_again(folder, model, monkeypatch):
    (folder / "broken.mkv").write_bytes(b"no video")
    report = build(folder, model).report
    assert list(report.broken) == ["broken.mkv"]
    assert len(report.added) == 6
    monkeypatch.setattr("glscl.search.windows.VideoReader", None)  # nothing is opened
    assert list(build(folder, model).report.broken) == ["broken.mkv"]
    monkeypatch.undo()
    report = build(folder, model, retry_broken=True).report
    assert list(report.broken) == ["broken.mkv"]
    (folder / "broken.mkv").write_bytes((folder / "first/clip 3.mp4").read_bytes())
    report = build(folder, model).report
    assert (report.added, report.broken) == (["broken.mkv"], {})


def test_another_decoder_tries_broken_files_again(folder, model, monkeypatch):
    (folder / "broken.mkv").write_bytes(b"no video")
    build(folder, model)
    (folder / "second/clip 0.mp4").touch()  # so that something else is written, too
    monkeypatch.setattr("glscl.search.build.decoder_version", lambda: "newer 1")
    monkeypatch.setattr(
        "glscl.search.windows.read_chunks",
        lambda path, file, *_: opened.append(path.name) or read_chunks(path, file, *_),
    )
    opened, path = [], str(folder.parent / "index")
    assert list(build(folder, model).report.broken) == ["broken.mkv"]
    assert sorted(opened) == ["broken.mkv", "clip 0.mp4"]
    assert table.read_files(path)["broken.mkv"].decoder == "newer 1"


def test_what_this_machine_cannot_read_now_is_named_and_not_remembered(
    folder, model, monkeypatch
):
    build(folder, model)
    before = content(folder.parent / "index")
    shutil.copy(folder / "second/clip 0.mp4", folder / "new.mp4")
    (folder / "first/clip 1.mp4").touch()

    def refused(path):
        raise VideoError(f"Video {path} cannot be read: no memory.", "machine")

    with monkeypatch.context() as patch:
        patch.setattr("glscl.search.windows.VideoReader", refused)
        report = build(folder, model).report
    assert report.broken.keys() == {"new.mp4", "first/clip 1.mp4"}
    assert (report.added, report.changed, report.unchanged) == ([], [], 5)
    assert content(folder.parent / "index") == before  # the old windows stay
    report = build(folder, model).report
    assert (report.added, report.changed, report.broken) == (
        ["new.mp4"],
        ["first/clip 1.mp4"],
        {},
    )


def test_videos_of_a_folder_that_cannot_be_listed_stay(folder, model, monkeypatch):
    build(folder, model)
    before, scandir = content(folder.parent / "index"), os.scandir

    def forbidden(path):
        if os.path.basename(path) == "first":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", forbidden)
        report = build(folder, model).report
    assert report.broken == {"first": "Permission denied"}
    assert (report.removed, report.unchanged) == ([], 3)
    assert content(folder.parent / "index") == before
    assert build(folder, model).report.unchanged == 6


def test_a_video_that_breaks_leaves_the_index(folder, model):
    build(folder, model)
    (folder / "first/clip 1.mp4").write_bytes(b"no video any more")
    report = build(folder, model).report
    assert list(report.broken) == ["first/clip 1.mp4"]
    assert all("clip 1" not in name for name, *_ in content(folder.parent / "index"))


def test_small_checkpoints_groups_and_workers_change_nothing(
    folder, index, model, monkeypatch
):
    monkeypatch.setattr("glscl.search.build.BATCH_FRAMES", 7)
    monkeypatch.setattr("glscl.search.windows.WINDOWS_AT_ONCE", 2)
    monkeypatch.setattr("glscl.search.build.CHECKPOINT_ROWS", 1)
    build(folder, model, workers=1)
    one, other = content(folder.parent / "index"), content(index.path)
    assert [row[:3] for row in one] == [row[:3] for row in other]
    for a, b in zip(one, other, strict=True):
        a, b = (np.frombuffer(row[3], np.float16) for row in (a, b))
        np.testing.assert_allclose(a, b, rtol=4e-3, atol=4e-3)


SLOW_BUILD = """
import sys, time, torch
sys.path[:0] = [{tests!r}, {root!r}]
torch.set_num_threads(1)
from pathlib import Path
from toy import toy_model
from glscl.search import Windows, build
from glscl.search.build import update
encode = build._encode
def slow(*arguments):
    time.sleep(0.5)
    return encode(*arguments)
build._encode = slow
build.BATCH_FRAMES = build.CHECKPOINT_ROWS = 1
update(Path({index!r}), Path({videos!r}), toy_model(), Windows(1.5, 0.5),
       progress=False)
"""


def test_a_killed_build_goes_on_where_it_was(folder, index, model):
    tests, path = Path(__file__).parents[1], folder.parent / "index"
    script = SLOW_BUILD.format(
        tests=str(tests), root=str(tests.parent), index=str(path), videos=str(folder)
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        if (path / "windows.lance" / "_versions").is_dir() and len(
            Snapshot(str(path))
        ) > 1:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = len({name for name, *_ in content(path)})
    assert 0 < kept < 6
    report = build(folder, model).report
    # The last file may have been killed between its windows and its own record.
    assert kept - 1 <= report.unchanged <= kept
    assert len(report.added) == 6 - report.unchanged
    assert [row[:3] for row in content(path)] == [
        row[:3] for row in content(index.path)
    ]


def test_features_of_another_model_folder_or_cut_are_refused(folder, model):
    path = folder.parent / "index"
    build(folder, model)
    with pytest.raises(ValueError, match="another digest"):
        build(folder, toy_model(seed=1))
    with pytest.raises(ValueError, match="another digest"):
        VideoIndex.open(path, toy_model(seed=1))
    other = toy_model(temperature=7.0)
    with pytest.raises(ValueError, match=r"another temperature:"):
        check_model(Snapshot(str(path)).about, other, str(path))
    about = Snapshot(str(path)).about
    earlier = {k: x for k, x in about.model.items() if k != "sampling"}
    check_model(about._replace(model=earlier), model, str(path))  # it had the default
    by_seconds = about._replace(model={**about.model, "sampling": "seconds"})
    with pytest.raises(ValueError, match=r"another sampling:"):
        check_model(by_seconds, model, str(path))
    with pytest.raises(ValueError, match="not of"):
        update(path, folder / "first", model, progress=False)
    with pytest.raises(ValueError, match="make another index"):
        build(folder, model, windows=Windows(2.0, 0.5))
    with pytest.raises(ValueError, match="does not say where its model is"):
        VideoIndex.open(path)


def test_empty_and_missing_folders_are_refused(tmp_path, model):
    with pytest.raises(FileNotFoundError, match="no folder"):
        update(tmp_path / "index", tmp_path / "lost", model)
    with pytest.raises(ValueError, match="no video below"):
        update(tmp_path / "index", tmp_path, model)
    # Nothing is left that would belong to the wrong folder.
    with pytest.raises(FileNotFoundError, match="no video index"):
        Snapshot(str(tmp_path / "index"))


def test_an_index_that_cannot_be_opened_is_named_without_places_in_lance(tmp_path):
    file = tmp_path / "file"
    file.write_text("no index")
    with pytest.raises(OSError, match=r"The index .*file: .*Not a directory") as caught:
        Snapshot(str(file))
    assert ".rs" not in str(caught.value)


def test_a_folder_with_the_name_of_the_built_in_model_is_not_taken(
    tmp_path, monkeypatch
):
    (tmp_path / "mini").mkdir()
    monkeypatch.chdir(tmp_path)
    assert search_model("mini").backbone.name == "mini"
    with pytest.raises(FileNotFoundError, match=r"holds no saved model"):
        search_model("./mini")
    with pytest.raises(FileNotFoundError, match="No weights 'other'"):
        search_model("mini:other")


def test_a_clip_without_training_is_a_search_model():
    model = search_model("mini")
    assert (model.temporal, model.config.local) == (None, False)
    assert model.config.pooling == "gim"
    pooled = search_model("mini", "clip4clip")
    assert (pooled.method, pooled.temporal) == ("clip4clip", None)
    with pytest.raises(ValueError, match=r"drl has weights that start at random"):
        search_model("mini", "drl")
    with pytest.raises(ValueError, match="Unknown method 'dlr'"):
        search_model("mini", "dlr")


# ---- searching ---------------------------------------------------------------------


def plain_scores(index, text):
    """Every window's score, straight from the model."""
    model = index.model
    ids, mask = model.backbone.tokenize([text], model.config.max_words)
    stored = index.snapshot.features(np.arange(len(index)))
    frames, concepts = (
        torch.from_numpy(stored[name].copy()).float() for name in ("frames", "concepts")
    )
    real = torch.from_numpy(~np.isnan(stored["times"]))
    with torch.no_grad():
        words = model.encode_text(ids, mask)
        video = VideoFeatures(frames, real, concepts)
        tau = model.config.temperature
        weights = frame_weights(words.captions, video.frames, real, tau)[0]
        return model.similarity(words, video)[0].numpy(), weights.numpy()


@pytest.mark.parametrize("exact", [False, True])
def test_scores_and_weights_are_the_models(index, exact):
    scores, weights = plain_scores(index, "a red circle")
    found = index.search("a red circle", k=4, exact=exact)
    assert [m.score for m in found] == sorted((m.score for m in found), reverse=True)
    assert found[0].row == scores.argmax()
    for moment in found:
        assert moment.score == pytest.approx(scores[moment.row], abs=1e-5)
        n = len(moment.frame_weights)
        np.testing.assert_allclose(
            moment.frame_weights, weights[moment.row, :n], atol=1e-6
        )
        assert moment.frame_weights.sum() == pytest.approx(1, abs=1e-5)
        assert moment.path.is_file()
        assert moment.start - 0.2 <= moment.frame_times[0]
        assert moment.frame_times[-1] <= moment.end


def test_two_stages_that_hand_over_everything_are_exact(index):
    for text in ("a red circle", "two green rings move left", "nothing"):
        two, exact = (index.search(text, 5, 100, e) for e in (False, True))
        assert [m.row for m in two] == [m.row for m in exact]


def test_the_shortlist_is_what_the_coarse_vectors_say(index):
    ids, mask = index.model.backbone.tokenize(["a blue star"], 16)
    with torch.no_grad():
        text = index.model.encode_text(ids, mask)
    ((rows, _),) = index.ranked(text, shortlist=4, k=4)
    coarse = index.snapshot.features(np.arange(len(index)), "coarse")["coarse"]
    query = index.model.coarse_text(text).numpy()[0]
    assert sorted(rows) == sorted(np.argsort(-(coarse.astype(np.float32) @ query))[:4])


def test_moments_of_one_video_do_not_overlap(index):
    found = index.search("a red circle", k=20)
    spans = [(m.start, m.end) for m in found if m.path.name == "clip 2.mp4"]
    assert len(spans) > 1
    for i, (start, end) in enumerate(spans):
        for other_start, other_end in spans[:i]:
            assert end <= other_start or other_end <= start


def test_a_batch_is_its_sentences_one_by_one(index):
    texts = [f"a {c} circle {n}" for c in ("red", "blue") for n in range(40)]
    together = index.search_all(texts, k=3)
    assert len(together) == 80
    for text, found in list(zip(texts, together, strict=True))[::20]:
        assert [m.row for m in index.search(text, k=3)] == [m.row for m in found]


OTHERS = ("eercf", "glccl", "clip4clip", "ts2net", "xclip", "xpool", "drl", "dicosa")


@pytest.mark.parametrize("method", OTHERS)
def test_an_index_of_any_method_scores_as_the_method_does(method, tmp_path, clips):
    (tmp_path / "videos").mkdir()
    for number in (1, 2):  # of one window and of several, with padding
        (path,) = clips.glob(f"*/clip {number}.mp4")
        shutil.copy(path, tmp_path / "videos")
    model = toy_related(method)
    index = build(tmp_path / "videos", model)
    rows = np.arange(len(index))
    ids, mask = model.backbone.tokenize(["a red circle moves", "two rings"], 9)
    with torch.no_grad():
        text = model.encode_text(ids, mask)
        scores = model.similarity(text, index.video(index.snapshot.features(rows)))
        direct = model.similarity(text, encoded(model, tmp_path / "videos/clip 1.mp4"))
    row = [Path(path).name for path in paths_of(index)].index("clip 1.mp4")
    torch.testing.assert_close(scores[:, [row]], direct, rtol=5e-3, atol=5e-3)
    for exact in (False, True):
        ranked = index.ranked(text, k=len(index), exact=exact)
        for (found, values), wanted in zip(ranked, scores.numpy(), strict=True):
            assert sorted(found) == list(rows)
            np.testing.assert_allclose(values, wanted[found], atol=1e-6)
    for moment in index.search("a red circle", k=3):
        if method in ("clip4clip", "xclip", "drl"):
            assert moment.frame_weights is None
        else:
            assert len(moment.frame_weights) == len(moment.frame_times)
            assert moment.frame_weights.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("method", ["glscl", "clip4clip", "ts2net", "xpool"])
def test_coarse_vectors_give_the_score_itself_where_frames_are_alike(method):
    changes = {"temporal_layers": 0} | ({"local": False} if method == "glscl" else {})
    model = toy_related(method, **changes)
    frames = torch.randn(3, 1, 128).expand(3, 5, 128).contiguous()
    mask = torch.arange(5) < torch.tensor([[5], [2], [3]])
    ids, words = model.backbone.tokenize(["a red circle moves", "two rings"], 9)
    with torch.no_grad():
        text = model.encode_text(ids, words)
        video = model.encode_video_features(frames, mask)
        products = model.coarse_text(text) @ model.coarse_video(video).T
        torch.testing.assert_close(
            products, model.similarity(text, video), atol=1e-5, rtol=1e-4
        )


def test_the_commands_take_a_saved_model_of_any_method(folder, tmp_path, model):
    def run(*arguments):
        return CliRunner().invoke(app, [str(one) for one in arguments])

    toy_related("xclip").save(tmp_path / "saved")
    path = tmp_path / "by command"
    told = "index", folder / "first", "--index", path, "--model", tmp_path / "saved"
    wrong = run(*told, "--method", "xpool")
    assert "holds a model of xclip, not of xpool" in wrong.output
    made = run(*told)
    assert made.exit_code == 0, made.output
    assert VideoIndex.open(path).model.method == "xclip"
    assert "3 unchanged" in run("index", folder / "first", "--index", path).output
    assert "2 moments" in run("search", "x", "--index", path, "--k", 2).output


@pytest.mark.parametrize("exact", [False, True])
def test_filters_by_folder_and_date(index, exact):
    def found(where):
        moments = index.search("a ring", k=50, exact=exact, where=where)
        return {m.path.name for m in moments}

    assert found(Where("first/")) == {f"clip {i}.mp4" for i in (1, 3, 5)}
    assert found(Where("./first")) == found(Where("first"))
    assert found(Where(".")) == found(Where())
    assert found(Where("fir")) == set()
    date = datetime.datetime.fromtimestamp(1_000_003)
    assert found(Where(after=date)) == {f"clip {i}.mp4" for i in (3, 4, 5)}
    assert found(Where("second", before=date)) == {f"clip {i}.mp4" for i in (0, 2)}
    # Files have no date that far off, nor has the index numbers for it.
    first, last = datetime.datetime.min, datetime.datetime.max
    assert len(found(Where(after=first, before=last))) == 6
    assert found(Where(before=first)) == found(Where(after=last)) == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((" ",), "must not be empty"),
        (("a", 0), "at least 1"),
        (("a", 1, 0), "at least"),
    ],
)
def test_impossible_searches_are_refused(index, arguments, message):
    with pytest.raises(ValueError, match=message):
        index.search(*arguments)


def test_a_large_build_gets_an_approximate_index_and_keeps_it(
    folder, model, monkeypatch
):
    monkeypatch.setattr(table, "APPROXIMATE_FROM", 5)
    index = build(folder, model)
    assert index.snapshot.indexed == len(index)
    found = index.search("a red circle", k=3)
    exact = index.search("a red circle", k=3, exact=True)
    assert [m.row for m in found] == [m.row for m in exact]
    assert build(folder, model).snapshot.table.version == index.snapshot.table.version
    shutil.copy(folder / "second/clip 2.mp4", folder / "copy.mp4")
    more = build(folder, model)
    assert index.snapshot.indexed < more.snapshot.indexed == len(more)


# ---- several machines ----------------------------------------------------------------


def test_what_a_share_leaves_out_others_index(folder, model, index):
    whole = [row[:3] for row in content(index.path)]
    first = build(folder, model, shard=(0, 2))
    assert 0 < len(first.report.added) < 6
    second = build(folder, model, shard=(1, 2))
    assert len(first.report.added) + len(second.report.added) == 6
    assert second.report.removed == []
    assert [row[:3] for row in content(second.path)] == whole
    assert build(folder, model).report.unchanged == 6


ONE_SHARE = """
import sys, torch
sys.path[:0] = [{tests!r}, {root!r}]
torch.set_num_threads(1)
from pathlib import Path
from toy import toy_model
from glscl.search import Windows, build
build.CHECKPOINT_ROWS = 1
build.update({index!r}, Path({videos!r}), toy_model(), Windows(1.5, 0.5),
             progress=False, shard=({number}, 2))
"""


def test_two_processes_index_into_one_table_of_an_object_store(folder, index, model):
    """Lance's way to an object store, with a folder behind it."""
    tests, path = (
        Path(__file__).parents[1],
        f"file-object-store://{folder.parent}/store",
    )
    options = {"tests": str(tests), "root": str(tests.parent), "index": path}
    scripts = [
        ONE_SHARE.format(videos=str(folder), number=i, **options) for i in range(2)
    ]
    started = [subprocess.Popen([sys.executable, "-c", one]) for one in scripts]
    assert [process.wait() for process in started] == [0, 0]
    found = VideoIndex.build(folder, path, model, progress=False)
    assert found.report.unchanged == 6
    assert [row[:3] for row in content(path)] == [
        row[:3] for row in content(index.path)
    ]
    texts = ("a red circle", "a blue star")
    for one, other in zip(
        found.search_all(texts), index.search_all(texts), strict=True
    ):
        spans = [[(m.path.name, m.start) for m in moments] for moments in (one, other)]
        assert spans[0] == spans[1]
