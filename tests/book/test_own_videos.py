"""The folder that chapter 10 writes: what it promises is in it."""

import csv

from book.experiments.own_videos import (
    COPIES,
    FOLDERS,
    MISSING,
    UNREADABLE,
    write_folder,
)
from glscl.data.benchmarks import load_table
from glscl.data.split import VideoItem
from glscl.data.verify import verify


def test_the_folder_holds_copies_broken_files_and_a_row_without_a_file(tmp_path):
    table = write_folder(tmp_path / "my videos", clips=8)
    folder = table.parent
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = list(dict.fromkeys(row["path"] for row in rows))
    assert len(names) == 8 + COPIES + len(UNREADABLE) + 1
    assert {name.split("/")[0] for name in names} == set(FOLDERS)
    checked = verify([VideoItem(name, folder / name) for name in names], workers=1)
    assert {video.id for video in checked.bad} == {*UNREADABLE, MISSING}
    files = [(folder / name).read_bytes() for name in names if name != MISSING]
    assert len(set(files)) == len(files) - COPIES // 2
    assert sum(load_table(table, folder).left_out.values(), ()) == (MISSING,)


def test_the_folder_is_the_same_every_time_and_another_for_another_seed(tmp_path):
    tables = [
        write_folder(tmp_path / name, clips=6, seed=seed)
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    ]
    one, again, other = (table.read_text() for table in tables)
    assert one == again != other
