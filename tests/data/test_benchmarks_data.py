"""Readers of the six benchmarks: replicas with every oddity, and the real files."""

import json
import pickle
import random
import re

import pytest
import replicas

from glscl.data.annotations import AnnotationError, read_captions
from glscl.data.benchmarks import BENCHMARKS, load, read_benchmark

WITHOUT_VAL = {"msrvtt", "activitynet", "vatex"}


def touch(root, files):
    for file in files.values():
        path = root / "videos" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0")


@pytest.fixture
def tree(tmp_path, request):
    """The replica named by the test's parameter, videos being empty names."""
    touch(tmp_path, replicas.annotations(request.param, tmp_path))
    return request.param, tmp_path


@pytest.mark.parametrize("tree", replicas.NAMES, indirect=True)
def test_every_tree_gives_three_disjoint_splits_with_their_videos(tree):
    name, root = tree
    data = load(name, root)
    ids = [video.id for s in ("train", "val", "test") for video in data.split(s).videos]
    assert len(ids) == len(set(ids))
    assert len(data.split("test").videos) == replicas.TEST
    assert (data.held_out > 0) == (name in WITHOUT_VAL)
    for split in data.splits.values():
        assert all(video.path.is_file() for video in split.videos)


@pytest.mark.parametrize("tree", replicas.NAMES, indirect=True)
def test_counts_other_than_the_published_are_said(tree):
    name, root = tree
    said = " ".join(load(name, root).differences())
    for split, size in next(iter(BENCHMARKS[name].sizes.values())).items():
        for count in size:
            assert count is None or f"{split}: " in said
            assert count is None or f"published: {count}" in said


def test_captions_follow_each_protocol(tmp_path):
    def texts(name):
        root = tmp_path / name
        touch(root, replicas.annotations(name, root))
        split = load(name, root).split("test")
        return split, [c.text for c in split.captions if c.video == 0]

    first = replicas.TRAIN + replicas.VAL
    assert texts("msrvtt")[1] == [f"{replicas.sentence(first)}, slowly"]
    split, paragraph = texts("didemo")
    both = [replicas.sentence(first, part) for part in range(2)]
    assert paragraph == [" ".join(both)]
    assert (split.videos[0].start, split.videos[0].end) == (0.0, 31.0)
    then = f"{replicas.sentence(first)} Then {replicas.sentence(first, 1)}"
    assert texts("activitynet")[1] == [then]
    assert len(texts("vatex")[1]) == 10
    split, _ = texts("msvd")
    assert len(split.captions) > len(split.videos)


def test_a_clip_of_several_rows_has_several_captions(tmp_path):
    replicas.annotations("lsmdc", tmp_path)
    train = read_benchmark("lsmdc", tmp_path)["train"]
    assert [len(texts) for texts in train.values()] == [2, 1, 1, 1, 1, 1]
    assert next(iter(train.values()))[0].startswith('SOMEONE says "no')


def test_variants_of_msrvtt_differ_in_what_is_trained_and_tested(tmp_path):
    replicas.annotations("msrvtt", tmp_path)
    nine = read_benchmark("msrvtt", tmp_path)
    seven = read_benchmark("msrvtt", tmp_path, "7k")
    full = read_benchmark("msrvtt", tmp_path, "full")
    assert list(nine["train"])[:-1] == list(seven["train"])
    assert nine["test"].keys() == full["test"].keys()
    assert {len(texts) for texts in nine["test"].values()} == {1}
    assert {len(texts) for texts in full["test"].values()} == {4}
    assert len(full["val"]) == replicas.VAL


def test_held_out_videos_depend_on_ids_alone(tmp_path):
    replicas.annotations("vatex", tmp_path)
    replicas.write_lists(tmp_path, {"train": [f"t{i}" for i in range(60)]})
    captions = {f"t{i}": ["a dog"] for i in range(60)}
    path = tmp_path / "ref_captions.json"
    path.write_text(json.dumps(captions | json.loads(path.read_text())))
    touch(tmp_path, {f"t{i}": f"t{i}.mp4" for i in range(60)})
    first = load("vatex", tmp_path, missing="drop")
    order = [f"t{i}" for i in range(60)]
    random.Random(0).shuffle(order)
    replicas.write_lists(tmp_path, {"train": order})
    (tmp_path / "videos" / f"{first.splits['val'].videos[0].id}.mp4").unlink()
    second = load("vatex", tmp_path, missing="drop")
    ids = [{v.id for v in data.splits["val"].videos} for data in (first, second)]
    assert len(ids[0]) == 6
    assert ids[0] - ids[1] == {first.splits["val"].videos[0].id}
    whole = load("vatex", tmp_path, hold_out=False, missing="drop")
    assert list(whole.splits) == ["train"]


def test_missing_videos_are_refused_by_name_or_left_out_and_counted(tmp_path):
    files = replicas.annotations("msvd", tmp_path)
    touch(tmp_path, files)
    gone, broken = [name for name in files if "vid8" in name or "vid9" in name]
    (tmp_path / "videos" / files[gone]).unlink()
    data = load("msvd", tmp_path, unreadable=[broken])
    assert len(data.split("train").videos) == replicas.TRAIN
    with pytest.raises(FileNotFoundError, match=f"2 of 3 .*{gone}, {broken}"):
        data.split("test")
    dropped = load("msvd", tmp_path, missing="drop", unreadable=[broken])
    assert [v.id for v in dropped.split("test").videos] == ["-vid10_1_9"]
    assert any("2 videos are missing" in text for text in dropped.differences())
    row = next(row for row in dropped.table() if row["split"] == "test")
    assert (row["annotated"], row["usable"]) == (3, 1)


def test_a_split_without_any_video_is_refused_only_when_asked_for(tmp_path):
    files = replicas.annotations("msrvtt", tmp_path)
    touch(tmp_path, {k: v for k, v in files.items() if int(k[5:]) >= 8})
    data = load("msrvtt", tmp_path)
    assert len(data.split("test").videos) == replicas.TEST
    with pytest.raises(FileNotFoundError, match="not one of its 7 videos"):
        data.split("train")
    with pytest.raises(ValueError, match="no split 'dev'"):
        data.split("dev")


def test_a_split_of_which_no_size_is_published_is_counted_all_the_same(tmp_path):
    files = replicas.annotations("vatex", tmp_path)
    touch(tmp_path, files)
    train = (tmp_path / "train_list.txt").read_text().split()
    replicas.write_lists(tmp_path, {"train": train[1:], "val": train[:1]})
    data = load("vatex", tmp_path)
    assert [video.id for video in data.split("val").videos] == train[:1]
    (row,) = (row for row in data.table() if row["split"] == "val")
    assert (row["videos published"], row["usable"]) == ("", 1)
    assert data.held_out == 0


def test_two_files_of_one_name_are_refused(tmp_path):
    files = replicas.annotations("didemo", tmp_path)
    touch(tmp_path, files)
    name = next(iter(files))
    (tmp_path / "videos" / f"{name}.mp4").write_bytes(b"0")
    with pytest.raises(ValueError, match=f"Two files are named {name}"):
        load("didemo", tmp_path)


def replace(path, old, new):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "sentence"),
    [
        (
            "msrvtt",
            "MSRVTT_train.9k.csv",
            b"video_id",
            b"id",
            r"9k.csv, line 1: no column 'video_id'",
        ),
        (
            "msrvtt",
            "MSRVTT_train.9k.csv",
            b"video2\n",
            b"video1\n",
            r"line 4: id 'video1' is there twice",
        ),
        (
            "msrvtt",
            "MSRVTT_train.9k.csv",
            b"video2\n",
            b"video99\n",
            "MSRVTT_data.json: id 'video99' has no caption",
        ),
        (
            "msrvtt",
            "MSRVTT_train.9k.csv",
            b"video2\n",
            b"video9\n",
            "id 'video9' is in test and in train",
        ),
        (
            "msrvtt",
            "MSRVTT_JSFUSION_test.csv",
            b",video9,",
            b",",
            r"line 3: 3 values, expected 4",
        ),
        (
            "msrvtt",
            "MSRVTT_JSFUSION_test.csv",
            b"a green square number 9",
            b"\xff",
            r"line 3: byte 0xff is not UTF-8",
        ),
        (
            "msrvtt",
            "MSRVTT_JSFUSION_test.csv",
            b"key,",
            b"\xef\xbb\xbfk\xfee,",
            r"line 1: byte 0xfe is not UTF-8",
        ),
        (
            "msrvtt",
            "MSRVTT_data.json",
            b'"caption": "a red square number 0 moves 0"',
            b'"caption": " "',
            "sentence 1: the caption is empty",
        ),
        (
            "msrvtt",
            "MSRVTT_data.json",
            b'"sentences"',
            b'"phrases"',
            "no 'sentences', found",
        ),
        ("msvd", "train_list.txt", b"-vid1_1_9", b"-vid0_1_9", "line 2: id .* twice"),
        (
            "msvd",
            "captions_msvd.json",
            b'["a red square number 0 moves 0"]',
            b"[3]",
            "-vid0_1_9, caption 1: expected a str, found 3",
        ),
        (
            "msvd",
            "captions_msvd.json",
            b'"-vid0_1_9"',
            b'"-vid1_1_9"',
            "is there twice",
        ),
        ("didemo", "val_data.json", b"[", b"[,", "line 1: not JSON"),
        ("didemo", "val_data.json", b'"description"', b'"text"', "entry 1: no 'desc"),
        (
            "lsmdc",
            "LSMDC16_annos_val.csv",
            b"00:00:54.129\t",
            b"",
            "line 1: 5 values, expected 6: clip_id",
        ),
        (
            "activitynet",
            "val_1.json",
            b'" Then a red square number 8 moves 1"',
            b'""',
            "v_08abcdefghi, sentence 2: the caption is empty",
        ),
        (
            "activitynet",
            "train_ids.json",
            b"00abc",
            b"77abc",
            "v_77abc.* has no caption",
        ),
        (
            "vatex",
            "test_list.txt",
            b"V8_",
            b"V88_",
            "V88_000122_000132' has no caption",
        ),
    ],
)
def test_bad_entries_are_named_with_file_and_place(
    tmp_path, name, file, old, new, sentence
):
    replicas.annotations(name, tmp_path)
    replace(tmp_path / file, old, new)
    with pytest.raises(AnnotationError, match=sentence) as caught:
        read_benchmark(name, tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", replicas.NAMES)
def test_a_missing_annotation_file_is_named(tmp_path, name):
    with pytest.raises(AnnotationError, match=r"\S+\.(json|csv|txt) is missing"):
        read_benchmark(name, tmp_path)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected one of .*'vatex'"):
        load("imagenet", tmp_path)
    with pytest.raises(ValueError, match=r"expected one of .*'9k', '7k', 'full'"):
        load("msrvtt", tmp_path, "1k")
    replicas.annotations("msrvtt", tmp_path)
    with pytest.raises(ValueError, match="'refuse' or 'drop'"):
        load("msrvtt", tmp_path, missing="zero")


def test_pickled_captions_equal_the_json_ones(tmp_path):
    replicas.annotations("msvd", tmp_path)
    expected = read_benchmark("msvd", tmp_path)
    captions = json.loads((tmp_path / "captions_msvd.json").read_text())
    tokens = {
        name: [text.split() for text in texts] for name, texts in captions.items()
    }
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / "raw-captions.pkl"
        path.write_bytes(pickle.dumps(tokens, protocol=protocol))
        (tmp_path / "captions_msvd.json").unlink(missing_ok=True)
        assert read_benchmark("msvd", tmp_path) == expected


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("the payload ran",))


@pytest.mark.parametrize("content", [Payload(), {"a": Payload()}, {"a": [[len]]}])
def test_a_pickle_that_names_code_is_refused_and_not_run(tmp_path, content):
    path = tmp_path / "raw-captions.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(AnnotationError, match=r"not a pickle of .*: it names "):
        read_captions(path)


def test_a_python_2_pickle_is_read_and_a_cut_one_refused(tmp_path):
    path = tmp_path / "raw-captions.pkl"
    path.write_bytes(b"(dp0\nS'v1'\np1\n(lp2\n(lp3\nS'a'\np4\naS'dog'\np5\naas.")
    assert read_captions(path) == {"v1": ["a dog"]}
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(AnnotationError, match="not a pickle"):
        read_captions(path)


@pytest.mark.shared
def test_the_real_files_of_msvd_have_the_published_counts(shared):
    splits = read_benchmark("msvd", shared / "annotations" / "msvd")
    counts = {k: (len(c), sum(map(len, c.values()))) for k, c in splits.items()}
    assert counts == {
        "train": (1200, 48774),
        "val": (100, 4290),
        "test": (670, 27763),
    }
    assert counts == {k: tuple(v) for k, v in BENCHMARKS["msvd"].sizes[""].items()}


@pytest.mark.shared
def test_the_real_files_of_msrvtt_have_the_published_counts(shared, tmp_path):
    """Their lists; the captions of training, which are not there, are made up."""
    for path in (shared / "annotations" / "msrvtt").iterdir():
        (tmp_path / path.name).symlink_to(path)
    sentences = [
        {"video_id": f"video{i}", "caption": f"{i} {part}"}
        for i in range(10000)
        for part in range(2)
    ]
    content = json.dumps({"videos": [], "sentences": sentences})
    (tmp_path / "MSRVTT_data.json").write_text(content)
    nine = read_benchmark("msrvtt", tmp_path)
    seven = read_benchmark("msrvtt", tmp_path, "7k")
    assert (len(nine["train"]), len(seven["train"])) == (9000, 7010)
    assert seven["train"].keys() < nine["train"].keys()
    assert len(nine["test"]) == 1000
    assert len({texts[0] for texts in nine["test"].values()}) == 995


def test_blanks_after_an_id_are_no_part_of_it(tmp_path):
    replicas.annotations("msrvtt", tmp_path)
    before = read_benchmark("msrvtt", tmp_path)
    for file in ("MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv", "MSRVTT_data.json"):
        path = tmp_path / file
        path.write_text(re.sub(r"(video\d+)", r"\1 ", path.read_text()))
    assert read_benchmark("msrvtt", tmp_path) == before
