"""The commands train and eval on a small built-in benchmark of real files."""

import csv
import json

import pytest
import torch
from toy import toy_model, toy_videos
from typer.testing import CliRunner

from glscl.cli import app
from glscl.evaluate import evaluate, markdown, result_table, worst_queries

runner = CliRunner()
SMALL = [
    "pretrained=null",
    "epochs=1",
    "batch_size=8",
    "temporal_layers=1",
    "num_decoder_layers=1",
    "num_queries=2",
    "max_frames=3",
]


def settings(*more):
    return [word for pair in (*SMALL, *more) for word in ("--set", pair)]


@pytest.fixture(scope="module")
def trained(clips_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    command = ["train", "--data", str(clips_root), "--out", str(out), *settings()]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "best epoch 0" in result.output
    assert "20 queries, 4 videos" in result.output
    return out, command


def test_training_leaves_a_log_a_checkpoint_and_the_best_model(trained):
    out, _ = trained
    names = {path.name for path in out.iterdir()}
    assert names == {"log.jsonl", "checkpoint.pt", "best-000"}
    lines = [json.loads(line) for line in (out / "log.jsonl").open()]
    assert len(lines) == 3
    assert lines[-1]["validation"]["t2v"]["gallery"] == 4


def test_training_again_finds_the_run_finished(trained):
    out, command = trained
    before = (out / "checkpoint.pt").stat().st_mtime_ns
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert (out / "checkpoint.pt").stat().st_mtime_ns == before


def test_training_from_pixels_with_augmentation(clips_root, tmp_path):
    more = settings("freeze=conv1", "augment=rand-m7-n4-mstd0.5-inc1", "batch_size=16")
    command = ["train", "--data", str(clips_root), "--out", str(tmp_path), *more]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output


def test_eval_prints_and_writes_the_same_table(clips_root, trained, tmp_path):
    out, _ = trained
    command = [
        "eval",
        str(out / "best-000"),
        "--data",
        str(clips_root),
        "--qb-norm",
        "--dsl",
    ]
    result = runner.invoke(app, [*command, "--out", str(tmp_path / "table")])
    assert result.exit_code == 0, result.output
    everything = json.loads((tmp_path / "table.json").read_text())
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["R1"]) for row in rows] == [
        row["R1"] for row in everything["table"]
    ]
    assert (tmp_path / "table.md").read_text() in result.output
    labels = {row["scores"] for row in rows}
    assert labels == {
        "raw",
        "DSL, transductive",
        "QB-Norm, bank: training captions",
    }
    assert len(everything["worst"]) == 10
    assert everything["about"]["split"] == "test"


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["--set", "epochs"], "NAME=VALUE"),
        (["--set", "speed=3"], "Unknown setting 'speed'"),
        (["--preset", "imagenet"], "Unknown preset 'imagenet'"),
        (["--set", "poolin=mean"], "of ModelConfig or TrainConfig: expected one of"),
        (["--set", "mask_padding='False'"], "mask_padding must be true or false, got"),
        (["--set", "pooling=GIM"], "pooling must be 'gim' or 'mean', got 'GIM'"),
        (["--set", "epoch_over=caption"], "epoch_over must be 'captions' or 'videos'"),
        (["--missing", "keep"], "missing must be 'refuse' or 'drop', got 'keep'"),
        (
            ["--precision", "fp8"],
            "precision must be 'fp32', 'bf16' or 'fp16', got 'fp8'",
        ),
    ],
)
def test_bad_settings_are_one_sentence(clips_root, tmp_path, command, sentence):
    result = runner.invoke(
        app, ["train", "--data", str(clips_root), "--out", str(tmp_path), *command]
    )
    assert result.exit_code == 1
    assert sentence in result.output


def test_a_folder_without_a_model_is_refused(clips_root, tmp_path):
    result = runner.invoke(app, ["eval", str(tmp_path), "--data", str(clips_root)])
    assert result.exit_code == 1
    assert "holds no saved model" in result.output


def test_worst_queries_are_those_that_rank_last():
    result = evaluate(toy_model(), toy_videos(8, 2))
    table = worst_queries(result, 16)
    ranks = [row["rank"] for row in table]
    assert ranks == sorted(ranks, reverse=True)
    for row in table:
        assert (row["first"] == row["video"]) == (row["rank"] == 1)
        assert row["score"] <= row["first score"]
    assert len(worst_queries(result, 3)) == 3


def test_table_bounds_recall_and_counts_queries():
    videos = toy_videos(6, 2)
    scores = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    rows = result_table([("raw", scores)], videos.split)
    assert [row["queries"] for row in rows] == [12, 6]
    for row in rows:
        assert row["low"] <= row["R1"] <= row["high"]
    assert markdown([{"a": 1.0, "b": "x|y"}]).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| 1 | x\\|y |",
    ]
