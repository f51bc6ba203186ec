"""Tables of one's own: three forms, splits by video, and each error as a sentence."""

import json

import pandas as pd
import pytest

from glscl.data.annotations import AnnotationError
from glscl.data.benchmarks import load, load_table

ROWS = [
    {"path": f"day {i % 3}/clip {i}.MP4", "caption": f"clip {i}, seen {k} times"}
    for i in range(30)
    for k in range(1 + i % 3)
]


def touch(root, rows):
    for row in rows:
        path = root / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0")


def written(root, rows, kind):
    """The rows as a file of that kind, or as a DataFrame."""
    path = root / f"table{kind}"
    if kind == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    elif kind == ".json":
        path.write_text(json.dumps(rows))
    elif kind == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path if kind else pd.DataFrame(rows)


@pytest.mark.parametrize("kind", ["", ".json", ".jsonl"])
def test_every_form_of_a_table_gives_the_splits_of_the_csv(tmp_path, kind):
    touch(tmp_path, ROWS)
    expected = load_table(written(tmp_path, ROWS, ".csv"), tmp_path)
    found = load_table(written(tmp_path, ROWS, kind), tmp_path)
    assert found.splits == expected.splits
    assert [len(found.split(s).videos) for s in ("train", "val", "test")] == [25, 2, 3]


def test_all_captions_of_a_video_are_in_one_split_whatever_the_order(tmp_path):
    touch(tmp_path, ROWS)
    first = load_table(pd.DataFrame(ROWS), tmp_path)
    second = load_table(pd.DataFrame(ROWS[::-1]), tmp_path)
    captions = 0
    for name, split in first.splits.items():
        assert {v.id for v in split.videos} == {v.id for v in second.split(name).videos}
        captions += len(split.captions)
    assert captions == len(ROWS)


def test_the_test_split_is_the_same_where_nothing_is_held_out_for_validation(tmp_path):
    touch(tmp_path, ROWS)
    with_val = load_table(pd.DataFrame(ROWS), tmp_path)
    without = load_table(pd.DataFrame(ROWS), tmp_path, hold_out=False)
    assert without.split("test") == with_val.split("test")
    assert set(without.splits) == {"train", "test"}
    assert len(without.split("train").videos) == 27


def test_a_column_names_the_splits_and_only_validation_is_held_out(tmp_path):
    rows = [{**row, "split": "train"} for row in ROWS]
    rows[0] = {**rows[0], "split": "test"}
    touch(tmp_path, rows)
    data = load_table(pd.DataFrame(rows), tmp_path)
    assert [v.id for v in data.split("test").videos] == ["day 0/clip 0.MP4"]
    assert len(data.split("val").videos) == 2
    only = load_table(pd.DataFrame(rows[:1]), tmp_path)
    assert list(only.splits) == ["test"]
    rest = load_table(pd.DataFrame(rows[1:]), tmp_path, hold_out=False)
    assert list(rest.splits) == ["train"]


def test_missing_and_unreadable_videos_are_refused_or_left_out(tmp_path):
    touch(tmp_path, ROWS[1:])
    table = written(tmp_path, ROWS, ".csv")
    broken = ROWS[1]["path"]
    data = load(str(table), tmp_path, missing="drop", unreadable=[broken])
    assert data.held_out > 0
    left_out = [name for names in data.left_out.values() for name in names]
    assert sorted(left_out) == sorted([ROWS[0]["path"], broken])
    refusing = load(str(table), tmp_path)
    (split,) = (name for name, gone in refusing.left_out.items() if gone)
    with pytest.raises(FileNotFoundError, match=r"1 of \d+ videos .*clip 0.MP4"):
        refusing.split(split)


def test_paths_are_relative_to_the_folder_or_inside_it(tmp_path):
    touch(tmp_path, ROWS)
    rows = [{**row, "path": str(tmp_path / "." / row["path"])} for row in ROWS]
    expected = load_table(pd.DataFrame(ROWS), tmp_path)
    assert load_table(pd.DataFrame(rows), tmp_path).splits == expected.splits
    prepared = tmp_path / "small"
    copies = [{"path": f"{row['path']}.mp4"} for row in ROWS]
    touch(prepared, copies)
    found = load_table(pd.DataFrame(ROWS), prepared).split("test").videos
    assert all(video.path.name.endswith(".MP4.mp4") for video in found)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "the table: there is no row"),
        ([{"path": "a.mp4"}], "the table, row 1: no 'caption', found .*path"),
        ([{"path": "a.mp4", "caption": " "}], "row 1: the caption is empty"),
        ([{"path": "", "caption": "a"}], "row 1: the path is empty"),
        ([{"path": "a.mp4", "caption": 7}], "row 1, caption: expected a str, found 7"),
        ([{"path": "../a.mp4", "caption": "a"}], r"row 1: \.\./a.mp4 lies outside"),
        ([{"path": "a.mp4", "caption": "a"}] * 2, "row 2: a.mp4 has the caption 'a'"),
        ([{"path": "a.mp4", "caption": "a", "split": "dev"}], "row 1: split 'dev'"),
        (
            [
                {"path": "a.mp4", "caption": "a", "split": "train"},
                {"path": "./a.mp4", "caption": "b", "split": "test"},
            ],
            "row 2: a.mp4 is in test here and in train above",
        ),
        ([{"path": "a.mp4", "caption": "a"}], "too few videos, none is left for"),
    ],
)
def test_a_bad_table_is_refused_with_its_place(tmp_path, rows, words):
    with pytest.raises(AnnotationError, match=words):
        load_table(pd.DataFrame(rows), tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "path;caption\na.mp4;a\n", "line 1: no column 'path'"),
        ("a.csv", "path,caption\na.mp4,a, b\n", "line 2: 3 values, expected 2"),
        ("a.json", '{"path": "a.mp4"}', "expected a list"),
        ("a.json", '["a.mp4"]', "entry 1: expected a dict"),
        ("a.json", "[1]", "entry 1: expected a dict, found 1"),
        ("a.jsonl", '{"path": "a.mp4", "caption": "a"}\n{', "line 2: not JSON"),
        (
            "a.jsonl",
            '{"path": "a.mp4", "path": "b.mp4"}',
            "line 1: .*'path' is there tw",
        ),
        ("a.jsonl", "1" * 5000, "line 1: not read as JSON: Exceeds the limit"),
        ("a.json", "[" * 100_000, "a.json: not read as JSON: maximum recursion"),
        ("a.csv", "path,caption,path\na,b,c\n", "line 1: two columns 'path'"),
        ("a.csv", 'path,caption\na,b\nc,"d\ne,f\n', "line 3: a quote is not closed"),
        ("a.csv", "path,caption\na," + "b" * 200_000, "line 2: .* a value is too long"),
        ("a.txt", "", "a.txt: a table is one of .csv, .json, .jsonl"),
        ("gone.csv", None, "gone.csv is missing"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(AnnotationError, match=words):
        load_table(tmp_path / name, tmp_path)


def test_a_table_has_no_variant(tmp_path):
    with pytest.raises(ValueError, match="no variant, got '9k'"):
        load("a.csv", tmp_path, variant="9k")
