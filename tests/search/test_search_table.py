"""The tables of an index: what is written comes back, whoever writes or is killed."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

lance = pytest.importorskip("lance")

from glscl.search import table  # noqa: E402
from glscl.search.table import About, FileRecord, Snapshot  # noqa: E402

F, Q, D = 3, 2, 8
ABOUT = About("videos", {"digest": "x"}, {"seconds": 1.0})


def columns(numbers):
    """Windows of a file, each full of its number; its last frame is padding."""
    full = np.repeat(np.asarray(numbers, np.float16), F * D).reshape(-1, F, D)
    times = np.tile([0.0, 0.5, np.nan], (len(numbers), 1)).astype(np.float32)
    return {
        "start": np.arange(len(numbers), dtype=np.float32),
        "end": np.arange(len(numbers), dtype=np.float32) + 1,
        "times": times,
        "frames": full,
        "concepts": full[:, :Q],
        "coarse": full[:, 0],
    }


def create(path):
    arrays = {n: x for n, x in columns([0]).items() if np.ndim(x) > 1}
    table.create(str(path), ABOUT, arrays)


def write(path, files):
    """Replace files, name → the number of each of its windows."""
    records = {name: FileRecord(1, 2) for name in files}
    parts = {name: columns(numbers) for name, numbers in files.items()}
    table.write_files(str(path), records, parts)


def content(path):
    """Every window: its file and its number."""
    snapshot = path if isinstance(path, Snapshot) else Snapshot(str(path))
    rows = np.arange(len(snapshot))
    features = snapshot.features(rows)
    frames = features["frames"]
    assert (frames == frames[:, :1, :1]).all()
    assert (features["concepts"] == frames[:, :Q]).all()
    names = snapshot.table.take(rows, columns=["path"])["path"].to_pylist()
    return sorted(zip(names, frames[:, 0, 0].tolist(), strict=True))


@pytest.fixture
def index(tmp_path):
    create(tmp_path)
    write(tmp_path, {"a": [1, 2], "ü/b": [3]})
    write(tmp_path, {"c": [4, 5, 6], "d": [7]})
    return tmp_path


def test_what_was_written_comes_back(index):
    snapshot = Snapshot(str(index))
    assert snapshot.about == ABOUT
    assert content(snapshot) == [
        *(("a", 1.0), ("a", 2.0), ("c", 4.0), ("c", 5.0), ("c", 6.0), ("d", 7.0)),
        ("ü/b", 3.0),
    ]
    times = snapshot.features(np.arange(7), "times")["times"]
    assert np.isnan(times).sum(axis=1).tolist() == [1] * 7


def test_rows_are_read_in_any_order_and_repeatedly(index):
    snapshot = Snapshot(str(index))
    rows = np.array([6, 0, 4, 4, 2])
    coarse = snapshot.features(np.arange(7), "coarse")["coarse"][:, 0]
    frames = snapshot.features(rows, "frames")["frames"]
    assert frames[:, 1, 1].tolist() == coarse[rows].tolist()
    assert snapshot.features(rows[:0])["frames"].shape == (0, F, D)


def test_a_file_is_replaced_as_a_whole(index):
    write(index, {"c": [9], "e": [10]})
    assert ("c", 9.0) in content(index)
    assert [name for name, _ in content(index)] == ["a", "a", "c", "d", "e", "ü/b"]


def test_a_file_that_breaks_loses_its_windows_and_is_remembered(index):
    record = FileRecord(5, 6, "no video", "av 1")
    table.write_files(str(index), {"c": record}, {})
    assert "c" not in dict(content(index))
    files = table.read_files(str(index))
    assert files["c"] == record
    assert files["d"] == FileRecord(1, 2)


def test_files_are_forgotten(index):
    write(index, {"it's": [8]})
    table.forget_files(str(index), ["it's", "a", "never there"])
    assert [name for name, _ in content(index)] == ["c", "c", "c", "d", "ü/b"]
    assert table.read_files(str(index)).keys() == {"c", "d", "ü/b"}


def test_maintenance_changes_nothing_that_is_found(index):
    write(index, {"c": [9]})
    before = content(index)
    table.maintain(str(index))
    assert content(index) == before
    assert len(Snapshot(str(index)).table.get_fragments()) == 1


def test_a_reader_keeps_its_version_while_others_write(index):
    reader = Snapshot(str(index))
    before = content(reader)
    write(index, {"a": [20], "z": [21]})
    table.forget_files(str(index), ["d"])
    table.maintain(str(index))
    assert reader.table.version < reader.table.latest_version
    assert content(reader) == before
    assert content(index) != before


def test_writers_at_the_same_time_add_no_window_twice(index):
    problems = []

    def work(number):
        try:
            for step in range(4):
                write(index, {"same": [step] * 3, f"own {number}": [step]})
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    names = [name for name, _ in content(index)]
    assert names.count("same") == 3
    assert [names.count(f"own {i}") for i in range(3)] == [1, 1, 1]


def test_readers_see_whole_files_while_a_writer_works(index):
    stop, problems = threading.Event(), []

    def read():
        while not stop.is_set():
            of_c = [number for name, number in content(index) if name == "c"]
            if len(set(of_c)) > 1 or len(of_c) not in (2, 3):
                problems.append(of_c)

    write(index, {"c": [0, 0]})
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for step in range(1, 8):
        write(index, {"c": [step] * (2 + step % 2)})
        if step == 4:
            table.maintain(str(index))
    stop.set()
    for reader in readers:
        reader.join()
    assert problems == []


WRITE_FOR_EVER = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from test_search_table import write
step = 0
while True:
    step += 1
    write({path!r}, {{"x": [step] * (1 + step % 3), "y": [step]}})
    print(step, flush=True)
"""


@pytest.mark.parametrize("steps", [1, 4])
def test_a_killed_writer_leaves_the_last_version(index, steps):
    here = Path(__file__).parent
    script = WRITE_FOR_EVER.format(
        tests=str(here), root=str(here.parents[1]), path=str(index)
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(steps):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    found = content(index)
    of_x = [int(number) for name, number in found if name == "x"]
    assert len(set(of_x)) == 1
    assert of_x[0] >= last
    assert len(of_x) == 1 + of_x[0] % 3
    assert len(found) == 7 + len(of_x) + 1
    write(index, {"x": [0]})
    assert ("x", 0.0) in content(index)


def test_a_name_in_no_known_encoding_comes_back():
    name = b"\xe9t\xe9/\xff.mp4".decode("utf-8", "surrogateescape")
    stored = table.stored_path(name)
    stored.encode("utf-8")
    assert table.named_path(stored) == name
    assert table.stored_path("ü/b 'c'.mp4") == "ü/b 'c'.mp4"


def test_the_tables_are_read_without_this_package(index):
    windows = lance.dataset(str(index / "windows.lance")).to_table().to_pandas()
    assert windows.groupby("path").size().to_dict() == {
        "a": 2,
        "c": 3,
        "d": 1,
        "ü/b": 1,
    }
    assert windows["frames"].iloc[0].shape == (F * D,)


def test_no_index_and_an_older_one_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no video index"):
        Snapshot(str(tmp_path))
    lance.write_dataset(
        lance.dataset(_other(tmp_path)).to_table(), tmp_path / "windows.lance"
    )
    with pytest.raises(
        ValueError, match=r"no index of the present format.*glscl index FOLDER"
    ):
        Snapshot(str(tmp_path))
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"older version.*glscl index FOLDER"):
        Snapshot(str(tmp_path))


def _other(path):
    import pyarrow as pa

    lance.write_dataset(pa.table({"x": [1]}), path / "other.lance")
    return path / "other.lance"


def test_a_full_disk_is_one_sentence():
    message = "LanceError(IO): No space left on device, /src/io.rs:1:2"
    with pytest.raises(OSError, match=r"^The disk is full"), table.sentences("i"):
        raise OSError(message)
    with (
        pytest.raises(OSError, match=r"^The index i: LanceError\(IO\): odd$"),
        table.sentences("i"),
    ):
        raise OSError("LanceError(IO): odd, /src/io.rs:1:2")


# ---- the approximate index -----------------------------------------------------------


C = 64  # numbers of a coarse vector there
QUERIES = 5


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def query_of(seed):
    return unit(np.random.default_rng(seed).normal(size=C).astype(np.float32))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """900 windows with an approximate index, then some forgotten and some added.

    The first of the three windows of a file is near one of the queries, far nearer than
    the others: few bits tell them apart, whatever clusters a machine finds.
    """
    path = tmp_path_factory.mktemp("large")
    arrays = {n: x for n, x in columns([0]).items() if np.ndim(x) > 1}
    arrays["coarse"] = np.zeros((1, C), np.float16)
    table.create(str(path), ABOUT, arrays)
    rng = np.random.default_rng(99)

    def add(names):
        records, parts = {}, {}
        for number, name in enumerate(names):
            vectors = unit(rng.normal(size=(3, C)))
            vectors[0] = unit(query_of(number % QUERIES) + 0.5 * vectors[0])
            part = columns([0, 0, 0]) | {"coarse": vectors.astype(np.float16)}
            records[name] = FileRecord(1, 2)
            parts[name] = part
        table.write_files(str(path), records, parts)

    add([f"{i % 7}/{i}" for i in range(300)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "APPROXIMATE_FROM", 500)
        table.maintain(str(path))
        table.forget_files(str(path), [f"{i % 7}/{i}" for i in range(0, 100, 3)])
        add([f"new/{i}" for i in range(20)])
        table.maintain(str(path))  # too little is new: the clusters stay
    return Snapshot(str(path))


def scores_of(snapshot, query):
    """The product of every window with the query, by plain arithmetic."""
    coarse = snapshot.features(np.arange(len(snapshot)), "coarse")["coarse"]
    return coarse.astype(np.float32) @ query


@pytest.mark.parametrize("where", ["", "starts_with(path, '3/')", "path LIKE 'new/%'"])
def test_all_clusters_and_what_is_newer_give_the_nearest(large, where):
    assert 0 < large.indexed < len(large)
    paths = large.table.take(np.arange(len(large)), columns=["path"])[
        "path"
    ].to_pylist()
    prefix = {"": "", "s": "3/", "p": "new/"}[where[:1]]
    mask = np.array([path.startswith(prefix) for path in paths])
    for seed in range(QUERIES):
        scores = scores_of(large, query_of(seed))
        wanted = np.flatnonzero(mask & (scores > 0.6))
        assert len(wanted) >= 4
        assert scores[scores <= 0.6].max() < 0.5
        found = large.nearest(query_of(seed), len(wanted), where)
        assert sorted(found) == sorted(wanted)


def test_fewer_clusters_find_less(large, monkeypatch):
    shares = {probe: [] for probe in (0.1, 1.0)}
    for seed in range(20):
        query = query_of(100 + seed)
        wanted = np.argsort(-scores_of(large, query))[:10]
        for probe, share in shares.items():
            monkeypatch.setattr(table, "PROBED", probe)
            share.append(np.isin(wanted, large.nearest(query, 10)).mean())
    assert 0.1 < np.mean(shares[0.1]) < np.mean(shares[1.0])


def test_clusters_grow_with_the_root():
    assert [table.clusters(n) for n in (1, 100, 1_000_000)] == [1, 5, 500]
