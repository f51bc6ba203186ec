"""The index on disk: segments, ids, merging, and what a kill leaves."""

import multiprocessing
import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from glscl.search import store
from glscl.search.store import (
    FileState,
    Manifest,
    Records,
    SegmentWriter,
    Snapshot,
    count_to_merge,
    merge_segments,
    read_manifest,
    segment_name,
    write_manifest,
)

F, Q, D = 3, 2, 4


def new(path):
    write_manifest(path, Manifest("videos", {}, {}, F, Q, D))


def append(path, files):
    """A segment with ``files``, name → number of windows, each full of its id."""
    manifest, N = read_manifest(path), sum(files.values())
    name, first = segment_name(manifest), manifest.next_id
    with SegmentWriter(path, name, N, manifest) as writer:
        writer.add_files(list(files), [FileState(1, i) for i in range(len(files))])
        ids = first + np.arange(N)
        rows = np.zeros(N, store.ROW)
        rows["id"], rows["frames"] = ids, F
        rows["file"] = np.repeat(np.arange(len(files)), list(files.values()))
        full = np.ones((N, F + Q, D)) * ids[:, None, None]
        writer.add(rows, full[:, :F, 0], full, full[:, 0])
    write_manifest(
        path,
        replace(
            manifest,
            segments=(*manifest.segments, name),
            next_segment=manifest.next_segment + 1,
            next_id=first + N,
        ),
    )


def drop(path, low, high):
    manifest = read_manifest(path)
    write_manifest(path, replace(manifest, dropped=(*manifest.dropped, (low, high))))


def content(snapshot):
    """Every live window: its id, its file, and the number its features are full of."""
    rows = snapshot.live.nonzero()[0]
    features = snapshot.features(rows)
    assert (features == features[:, :1, :1]).all()
    return [
        (int(snapshot.ids[row]), snapshot.path_of(row), float(number))
        for row, number in zip(rows, features[:, 0, 0], strict=True)
    ]


@pytest.fixture
def index(tmp_path):
    new(tmp_path)
    append(tmp_path, {"a": 2, "ü/b": 1})
    append(tmp_path, {"c": 3})
    append(tmp_path, {"d": 1, "e": 2})
    return tmp_path


def test_windows_come_back_from_all_segments(index):
    names = ["a", "a", "ü/b", "c", "c", "c", "d", "e", "e"]
    assert content(Snapshot(index)) == [(i, n, float(i)) for i, n in enumerate(names)]


def test_rows_are_read_in_any_order(index):
    rows = np.array([7, 0, 4, 4, 8])
    assert Snapshot(index).features(rows)[:, 2, 1].tolist() == [7, 0, 4, 4, 8]
    assert Snapshot(index).times(rows)[:, 0].tolist() == [7, 0, 4, 4, 8]
    assert Snapshot(index).features(rows[:0]).shape == (0, F + Q, D)


def test_dropped_windows_are_not_live_and_their_file_is_gone(index):
    drop(index, 3, 6)
    snapshot = Snapshot(index)
    assert len(snapshot) == 6
    assert "c" not in snapshot.live_files()
    assert snapshot.live_files()["e"] == (FileState(1, 1), (7, 9))
    spans = np.concatenate([rows for rows, _ in snapshot.spans()])
    assert spans.tolist() == [0, 1, 2, 6, 7, 8]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_merging_keeps_what_is_live_and_nothing_else(index, count):
    drop(index, 1, 2)
    drop(index, 6, 7)
    before = Snapshot(index)
    write_manifest(index, merge_segments(index, before, count))
    after = Snapshot(index)
    assert content(after) == content(before)
    assert len(after.segments) == 4 - count
    assert after.live_files() == before.live_files()
    store.clean(index, after.manifest)
    assert content(Snapshot(index)) == content(before) == content(after)


def test_merging_nothing_live_leaves_no_segment(index):
    drop(index, 0, 9)
    write_manifest(index, merge_segments(index, Snapshot(index), 3))
    assert read_manifest(index).segments == ()
    assert content(Snapshot(index)) == []
    append(index, {"f": 1})
    assert content(Snapshot(index)) == [(9, "f", 9.0)]


def test_segments_stay_few_and_windows_are_copied_a_few_times():
    rows, copies, most = [], 0, 0
    for _ in range(5000):
        rows.append(10)
        count = count_to_merge(rows)
        if count:
            copies += sum(rows[-count:])
            rows[-count:] = [sum(rows[-count:])]
        most = max(most, len(rows))
    assert sum(rows) == 50_000
    assert most <= 16 * 5
    assert copies <= 4 * 50_000


def test_a_reader_keeps_its_state_while_a_writer_merges(index):
    reader = Snapshot(index)
    before = content(reader)
    drop(index, 0, 2)
    write_manifest(index, merge_segments(index, Snapshot(index), 3))
    store.clean(index, read_manifest(index))
    assert content(reader) == before
    assert content(Snapshot(index)) == before[2:]


def write_for_ever(path, stop):
    """Add and drop one file of three windows, merge now and then."""
    while not stop.is_set():
        manifest = read_manifest(path)
        append(path, {"x": 3})
        drop(path, manifest.next_id - 3, manifest.next_id)
        snapshot = Snapshot(path)
        if len(snapshot.segments) > 4:
            manifest = merge_segments(path, snapshot, len(snapshot.segments))
            write_manifest(path, manifest)
            store.clean(path, manifest)


def read_many(path, times, bad):
    for _ in range(times):
        found = content(Snapshot(path))
        # Between adding and dropping there are two versions; never one, or half.
        if [number for _, _, number in found] != [i for i, _, _ in found]:
            bad.value += 1
        if len(found) not in (3, 6) or found[-1][0] - found[0][0] + 1 != len(found):
            bad.value += 1


def test_two_readers_see_a_whole_state_while_a_writer_works(tmp_path):
    new(tmp_path)
    append(tmp_path, {"x": 3})
    context = multiprocessing.get_context("fork")
    stop, bad = context.Event(), context.Value("i", 0)
    writer = context.Process(target=write_for_ever, args=(tmp_path, stop))
    readers = [
        context.Process(target=read_many, args=(tmp_path, 60, bad)) for _ in range(2)
    ]
    for process in (writer, *readers):
        process.start()
    for reader in readers:
        reader.join(60)
    stop.set()
    writer.join(60)
    assert [process.exitcode for process in (writer, *readers)] == [0, 0, 0]
    assert bad.value == 0
    assert read_manifest(tmp_path).next_id > 3


def killed_at(path, moment):
    """Append and merge in a process that is killed at its n-th rename."""
    left = [moment]

    def watched(function):
        def run(*arguments):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return run

    os.rename, os.replace = watched(os.rename), watched(os.replace)
    append(path, {"f": 2})
    manifest = merge_segments(path, Snapshot(path), 4)
    write_manifest(path, manifest)
    store.clean(path, manifest)


@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_a_kill_at_any_rename_loses_and_doubles_nothing(index, moment):
    before = content(Snapshot(index))
    context = multiprocessing.get_context("fork")
    process = context.Process(target=killed_at, args=(index, moment))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    added = [(9, "f", 9.0), (10, "f", 10.0)] if moment > 2 else []
    assert content(Snapshot(index)) == before + added
    store.clean(index, read_manifest(index))  # as the next build begins
    names = {folder.name for folder in (index / "segments").iterdir()}
    assert names == set(read_manifest(index).segments)
    append(index, {"g": 1})
    assert content(Snapshot(index))[:-1] == before + added


def test_a_segment_that_fails_leaves_nothing(index):
    manifest = read_manifest(index)
    with (
        pytest.raises(RuntimeError, match="broke"),
        SegmentWriter(index, segment_name(manifest), 2, manifest),
    ):
        raise RuntimeError("broke")
    assert len(list((index / "segments").iterdir())) == 3


def test_a_second_writer_is_refused(tmp_path):
    with (
        store.only_writer(tmp_path),
        pytest.raises(RuntimeError, match="Another process is writing"),
        store.only_writer(tmp_path),
    ):
        pass
    with store.only_writer(tmp_path):
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "does not describe a video index"),
        ("[]", "does not describe a video index"),
        ('{"format": "glscl video index 0"}', "make the index again"),
        ('{"format": "glscl video index 2"}', "does not describe a video index"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path, text, message):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no video index"):
        read_manifest(tmp_path)


def test_a_file_cut_short_is_refused(index):
    file = index / "segments/000001/features.npy"
    records = Records(file)
    os.truncate(file, file.stat().st_size - 8)
    assert records.read(np.array([1])).shape == (1, F + Q, D)
    with pytest.raises(OSError, match="ends too early"):
        records.read(np.array([2]))
