"""Reproductions: what is run and kept, what counts, what is said without any."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import replicas
import yaml

from book.experiments.reproduction import (
    Result,
    as_published,
    compare,
    measured_values,
    published_eercf,
    published_results,
    query_bank,
    read_records,
    reproduce,
    video_counts,
)
from glscl.config import get_preset
from glscl.runs import DataSource
from glscl.train import RunOptions
from glscl.util.settings import parse

ROOT = Path(__file__).parents[2]
NUMBERS = ROOT / "book" / "paper_numbers.yml"
TINY = {
    "backbone": "mini",
    "pretrained": None,
    "max_words": 16,
    "max_frames": 2,
    "sample_fps": 4.0,
    "temporal_layers": 1,
    "num_decoder_layers": 1,
    "num_queries": 2,
    "epochs": 1,
    "batch_size": 3,
}


PROTOCOLS = {
    "msrvtt": "test",
    "msvd": "validation",
    "didemo": "test",
    "lsmdc": "validation",
    "activitynet": "test",
    "vatex": "validation",  # no script: as MSVD
}


@pytest.mark.parametrize(("name", "split"), PROTOCOLS.items())
def test_a_reproduction_leaves_a_record_of_what_was_run(
    name, split, tmp_path, write_video
):
    replicas.replica(name, tmp_path / "data", write_video)
    source = DataSource(name, tmp_path / "data")
    options = RunOptions(folder=tmp_path / "run", progress=False)
    record = reproduce(source, tmp_path / "out", options, changes={**TINY, "seed": 3})
    assert read_records(tmp_path / "out") == [record]
    (path,) = (tmp_path / "out").iterdir()
    assert path.stem.startswith(f"{name}-glscl-released-mini-fp32-")
    assert path.stem.endswith("-seed3")
    assert (record["seed"], record["tag"]) == (3, "released")
    assert record["clip_arithmetic"] == "released"
    # After step 1 and after the epoch, which is shorter than any interval of looks.
    assert record["selection"] == {"split": split, "looks": 2}
    assert record["settings"]["mask_padding"] is False
    assert {row["gallery"] for row in record["rows"]} == {replicas.TEST}
    assert record["videos"]["test"]["used"] == replicas.TEST
    assert not any(split["left_out"] for split in record["videos"].values())
    held_out = any("held out" in note for note in record["notes"])
    assert held_out == (name == "vatex")  # which has no validation list
    assert not as_published(record)  # tiny sizes
    print(name, record["tag"], record["clip_arithmetic"], record["selection"])


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("more", [[], ["VIDEOS=/videos/small"]])
def test_make_reproduce_sets_no_parameter_to_nothing(more):
    command = [
        "make",
        "-n",
        "-o",
        ".venv/.book",
        "reproduce",
        "DATASET=msvd",
        "DATA=/x",
    ]
    done = subprocess.run(
        [*command, *more], cwd=ROOT, capture_output=True, text=True, check=True
    )
    values = parse(re.findall(r'--set "([^"$]+)"', done.stdout))
    assert values.pop("videos", "absent") == ("/videos/small" if more else "absent")
    assert values["dataset"] == "msvd"
    assert all(value is not None for value in values.values())


def test_what_cannot_be_kept_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"needs options\.folder"):
        reproduce(DataSource("msvd", tmp_path), tmp_path, RunOptions())
    assert read_records(tmp_path / "nowhere") == []


def test_every_published_line_is_read_with_the_name_of_each_number():
    results = published_results(yaml.safe_load(NUMBERS.read_text()))
    of = {(r.dataset, r.backbone, r.name, r.direction): r.values for r in results}
    lines = yaml.safe_load(NUMBERS.read_text())["table_2"]["msvd"]["GLSCL"]["v2t"]
    found = of["msvd", "ViT-B/32", "GLSCL", "video to text"]
    assert list(found.values()) == lines
    assert list(found) == ["R1", "R5", "R10", "MnR"]
    found = of["msrvtt", "ViT-B/16", "GLSCL + QB-Norm", "text to video"]
    assert list(found) == ["R1", "R5", "R10", "MdR", "MnR"]
    # What is not printed is not there.
    assert "R10" not in of["didemo", "ViT-B/32", "X-CLIP", "text to video"]
    assert ("didemo", "ViT-B/32", "TS2-Net", "video to text") not in of


def test_eercf_is_compared_with_runs_of_eercf_on_the_same_gallery():
    results = published_eercf(yaml.safe_load(NUMBERS.read_text()))
    of = {(r.dataset, r.variant, r.direction): r for r in results}
    assert ("vatex", None, "video to text") not in of  # not printed
    for variant in (None, "full"):
        result = of["msrvtt", variant, "text to video"]
        for method, split, counts in (
            ("eercf", variant, True),
            ("glscl", variant, False),
            ("eercf", "7k", False),
        ):
            found = measured_values([run(method=method, variant=split)], result, "R1")
            assert found == ([47.0] if counts else [])


def test_videos_without_a_file_are_counted_by_split(tmp_path, write_video, clips_root):
    files = replicas.replica("msvd", tmp_path, write_video)
    (tmp_path / "videos" / next(iter(files.values()))).unlink()
    counts = video_counts(DataSource("msvd", tmp_path, missing="drop"))
    assert sum(split["left_out"] for split in counts.values()) == 1
    assert counts["test"]["published"] == 670
    with pytest.raises(ValueError, match="'mini' has no published results"):
        video_counts(DataSource("mini", clips_root))


def test_a_verdict_needs_seeds_and_respects_their_spread():
    assert compare(48.0, []).verdict == "not run here"
    few = compare(48.0, [47.0, 48.0])
    assert (few.verdict, few.reproduced) == ("2 of 3 seeds", None)
    assert (few.mean, few.tolerance) == (47.5, None)
    close = compare(47.9, [47.4, 47.5, 47.6])
    # 4.303: the tabulated t of two degrees of freedom.
    assert close.tolerance == pytest.approx(4.303 * 0.1 * (4 / 3) ** 0.5, rel=1e-3)
    assert (close.verdict, close.reproduced) == ("reproduced", True)
    low = compare(48.1, [47.4, 47.5, 47.6])
    assert (low.verdict, low.reproduced) == ("lower than published", False)
    assert compare(46.9, [47.4, 47.5, 47.6]).verdict == "higher than published"
    assert compare(51.0, [46.5, 47.5, 48.5]).reproduced


VIDEOS = {
    "train": {"published": 9000, "used": 9000, "left_out": 0},
    "test": {"published": 1000, "used": 1000, "left_out": 0},
}


def settings(dataset="msrvtt", tag="released", method="glscl", **changes):
    return get_preset(dataset, tag, method).changed(changes).settings()


def run(**changes):
    row = {"scores": "raw", "direction": "text to video", "captions": "all captions"}
    record = {
        "dataset": "msrvtt",
        "variant": None,
        "method": "glscl",
        "backbone": "ViT-B-32-quickgelu",
        "changes": {},
        "seed": 3,
        "settings": None,
        "kept_by_rule": True,
        "videos": VIDEOS,
        "notes": ["a note that says missing, and decides nothing"],
        "rows": [{**row, "R1": 47.0}, {**row, "direction": "video to text", "R1": 1.0}],
    }
    record = {**record, **changes}
    of = record["dataset"], "released", record["method"]
    return {**record, "settings": record["settings"] or settings(*of, seed=3)}


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"variant": "9k"}, True),
        ({"variant": "7k"}, False),
        ({"dataset": "msvd"}, False),
        ({"method": "eercf"}, False),
        ({"backbone": "ViT-B-16-quickgelu"}, False),
        (
            {
                "changes": {"pretrained": "ViT-B-32.pt"},
                "settings": settings(pretrained="ViT-B-32.pt", seed=3),
            },
            True,
        ),
        ({"changes": {"batch_size": 32}}, False),
        ({"settings": settings(batch_size=32, seed=3)}, False),
        ({"settings": settings(seed=4)}, False),
        ({"settings": settings(tag="recommended", seed=3)}, False),
        ({"settings": settings(clip_arithmetic="float32", seed=3)}, False),
        ({"settings": settings(select_on="validation", seed=3)}, False),
        ({"settings": settings(look_every=None, seed=3)}, False),
        ({"settings": settings("msvd", seed=3)}, False),
        ({"kept_by_rule": False}, False),
        ({"videos": {**VIDEOS, "train": {**VIDEOS["train"], "left_out": 1}}}, False),
        ({"videos": {**VIDEOS, "test": {**VIDEOS["test"], "left_out": 3}}}, False),
        ({"videos": {**VIDEOS, "test": {**VIDEOS["test"], "used": 999}}}, False),
        ({"videos": {**VIDEOS, "test": {**VIDEOS["test"], "published": None}}}, True),
    ],
)
def test_only_runs_of_the_published_setting_stand_beside_it(changes, counts):
    result = Result("msrvtt", "ViT-B/32", "GLSCL", "text to video", {"R1": 48.1})
    assert measured_values([run(**changes)], result, "R1") == ([47.0] if counts else [])


@pytest.mark.parametrize(
    ("name", "part"), [("msrvtt", "train"), ("msvd", "train"), ("lsmdc", "val")]
)
def test_the_bank_of_qb_norm_is_the_released_one(name, part, tmp_path, write_video):
    replicas.replica(name, tmp_path, write_video)
    source = DataSource(name, tmp_path)
    split = source.open(hold_out=False).split(part)
    found = query_bank(source, batch_size=2)
    if name == "msrvtt":
        owner = split.caption_to_video.tolist()
        firsts = [split.texts[owner.index(video)] for video in range(len(split.videos))]
        assert found == firsts[: len(firsts) // 2 * 2]
    else:
        assert found == split.texts
