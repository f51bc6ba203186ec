"""Every benchmark, as a small replica: trained a step, evaluated, shared by processes."""

import json
from pathlib import Path

import numpy as np
import pytest
import replicas
import torch
from tiny_model import authors_state, tiny_model
from torch import nn
from torch.multiprocessing import spawn
from toy import toy_model
from two_processes import join
from typer.testing import CliRunner

from glscl.cli import app
from glscl.data import loader
from glscl.data.benchmarks import load
from glscl.data.loader import FrameFeatures, FrameSpec, VideoDataset, stored_features
from glscl.data.verify import read_unreadable
from glscl.runs import DataSource, evaluate_on, load_model

runner = CliRunner()
TINY = [
    "backbone=mini",
    "pretrained=null",
    "max_words=32",
    "max_frames=3",
    "sample_fps=4",
    "temporal_layers=1",
    "num_decoder_layers=1",
    "num_queries=2",
    "epochs=1",
    "batch_size=64",
]


def settings(*more):
    return [word for pair in (*TINY, *more) for word in ("--set", pair)]


@pytest.mark.parametrize("name", replicas.NAMES)
def test_each_benchmark_trains_a_step_and_is_evaluated(name, tmp_path, write_video):
    root, run = tmp_path / "data", tmp_path / "run"
    replicas.replica(name, root, write_video)
    data = ["--dataset", name, "--data", str(root), "--cache", str(tmp_path / "kept")]
    result = runner.invoke(app, ["train", *data, "--out", str(run), *settings()])
    assert result.exit_code == 0, result.output
    assert "best epoch 0" in result.output
    assert "published" in result.output
    steps = [json.loads(line) for line in (run / "log.jsonl").open()]
    assert len(steps) == 2  # one step, one validation
    table = ["--out", str(tmp_path / "table"), "--worst", "2"]
    result = runner.invoke(app, ["eval", str(run / "best-000"), *data, *table])
    assert result.exit_code == 0, result.output
    about = json.loads((tmp_path / "table.json").read_text())["about"]
    assert (about["data"], about["videos"]) == (name, replicas.TEST)
    assert any("published" in note for note in about["notes"])
    assert not (root / "cache").exists()


@pytest.mark.parametrize("name", replicas.NAMES)
def test_holes_of_each_benchmark_are_found_and_can_be_left_out(
    name, tmp_path, write_video
):
    root, report = tmp_path / "data", tmp_path / "report.json"
    replicas.replica(name, root, write_video)
    verify = ["data", "verify", str(root), "--dataset", name, "--workers", "1"]
    result = runner.invoke(app, verify)
    assert result.exit_code == 0, result.output
    gone, broken, _ = load(name, root).split("test").videos
    gone.path.unlink()
    broken.path.write_bytes(broken.path.read_bytes()[:500])
    result = runner.invoke(app, [*verify, "--out", str(report)])
    assert result.exit_code == 1
    assert set(read_unreadable(report)) == {gone.id, broken.id}
    toy_model(max_frames=3, sample_fps=4.0).save(tmp_path / "model")
    data = ["--dataset", name, "--data", str(root), "--report", str(report)]
    result = runner.invoke(app, ["eval", str(tmp_path / "model"), *data])
    assert result.exit_code == 1
    assert "2 of 3 videos are missing" in result.output
    drop = ["--missing", "drop"]
    result = runner.invoke(app, ["eval", str(tmp_path / "model"), *data, *drop])
    assert result.exit_code == 0, result.output
    assert "2 videos are missing or unreadable, 1 remain" in result.output


def test_choosing_on_the_test_split_trains_on_all_of_train(tmp_path, write_video):
    root = tmp_path / "data"
    replicas.replica("vatex", root, write_video)
    command = ["train", "--dataset", "vatex", "--data", str(root), *settings()]
    for chooser in ("validation", "test"):
        out = tmp_path / chooser
        result = runner.invoke(
            app, [*command, "--out", str(out), "--set", f"select_on={chooser}"]
        )
        assert result.exit_code == 0, result.output
        assert f"{chooser} text to video" in result.output
    pairs = {}
    for chooser in ("validation", "test"):
        state = torch.load(tmp_path / chooser / "checkpoint.pt", weights_only=True)
        pairs[chooser] = json.loads(state["settings"])["split"][1]
    assert pairs == {"validation": replicas.TRAIN - 1, "test": replicas.TRAIN}


def test_broken_videos_stop_training_by_name_until_they_are_left_out(
    tmp_path, write_video
):
    root = tmp_path / "data"
    files = replicas.replica("msvd", root, write_video)
    broken = root / "videos" / next(iter(files.values()))
    broken.write_bytes(broken.read_bytes()[:500])
    data = ["--dataset", "msvd", "--data", str(root)]
    train = ["train", *data, "--out", str(tmp_path / "run"), *settings()]
    result = runner.invoke(app, train)
    assert result.exit_code == 1
    assert str(broken) in result.output
    report = tmp_path / "report.json"
    verify = ["data", "verify", str(root), "--dataset", "msvd", "--out", str(report)]
    assert runner.invoke(app, verify).exit_code == 1
    result = runner.invoke(app, [*train, "--report", str(report)])
    assert result.exit_code == 1
    assert "1 of 6 videos are missing" in result.output
    result = runner.invoke(app, [*train, "--report", str(report), "--missing", "drop"])
    assert result.exit_code == 0, result.output
    assert "train: 1 videos are missing or unreadable, 5 remain" in result.output


def test_an_imported_checkpoint_has_the_lengths_of_its_benchmark(tmp_path):
    model = tiny_model(mask_padding=False)
    path = tmp_path / "pytorch_model.bin.4"
    torch.save(authors_state(model, share=True), path)
    command = ["import", str(path), str(tmp_path / "model"), "--preset"]
    result = runner.invoke(app, [*command, "didemo"])
    assert result.exit_code == 0, result.output
    config = load_model(tmp_path / "model").config
    assert (config.max_words, config.max_frames, config.sample_fps) == (64, 64, 1.0)
    result = runner.invoke(app, [*command, "imagenet"])
    assert result.exit_code == 1
    assert "Unknown preset" in result.output
    more = ["--set", "beta=0.5", "--set", "dropout=0", "--set", "max_words=20"]
    result = runner.invoke(app, [*command[:-1], *more])
    assert result.exit_code == 0, result.output
    config = load_model(tmp_path / "model").config
    assert (config.beta, config.dropout, config.max_words) == (0.5, 0, 20)
    result = runner.invoke(app, [*command, "msrvtt", "--method", "glccl"])
    assert "Cannot import 'glccl': expected one of ['glscl', 'eercf']" in result.output


SPEC = FrameSpec(3, 4.0, 16, (0.0,) * 3, (1.0,) * 3)


class Mean(nn.Module):
    """An encoder that counts the frames it sees."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen = 0

    def encode_image(self, pixels):
        self.seen += len(pixels)
        return pixels.mean(dim=(2, 3))

    encode_image_with_patches = encode_image


def test_encoding_goes_on_where_it_was_killed(tmp_path, write_video, monkeypatch):
    replicas.replica("msvd", tmp_path / "data", write_video)
    dataset = VideoDataset(load("msvd", tmp_path / "data").split("train"), SPEC)
    whole = one_feature_set(Mean(), dataset, tmp_path / "one")
    monkeypatch.setitem(loader.SHARD, "frames", 4)
    first = one_feature_set(Mean(), dataset, tmp_path / "many")
    assert torch.equal(first.frames, whole.frames)
    assert torch.equal(first.frame_mask, whole.frame_mask)
    files = sorted((tmp_path / "many").glob("features-*"))
    assert len(files) == 2
    sizes = [path.stat().st_size for path in files]
    shorter = files[sizes.index(min(sizes))]
    shorter.write_bytes(shorter.read_bytes()[:-1])
    encoder = Mean()
    again = one_feature_set(encoder, dataset, tmp_path / "many")
    assert torch.equal(again.frames, whole.frames)
    assert encoder.seen == 2 * SPEC.max_frames


def one_feature_set(encoder, dataset, folder):
    """What is stored of all videos, in memory."""
    parts = stored_features(encoder, dataset, folder)
    return FrameFeatures(*map(torch.cat, zip(*parts, strict=True)))


def _one_of_two(rank, folder):
    folder = Path(folder)
    join(rank, folder)
    source = DataSource("msvd", folder / "data", cache=folder / "shared")
    dataset = VideoDataset(source.open().split("train"), SPEC)
    encoder, loader.SHARD["frames"] = Mean(), 4
    features = one_feature_set(encoder, dataset, folder / "shards")
    rows, worst, _ = evaluate_on(source, folder / "model", with_qb_norm=True)
    found = {"rows": rows, "worst": worst, "seen": encoder.seen}
    found["sum"] = features.frames.sum().item()
    (folder / f"found-{rank}.json").write_text(json.dumps(found))


def test_two_processes_share_encoding_and_scoring(tmp_path, write_video, free_port):
    replicas.replica("msvd", tmp_path / "data", write_video)
    toy_model(max_frames=3, sample_fps=4.0).save(tmp_path / "model")
    (tmp_path / "port").write_text(str(free_port))
    spawn(_one_of_two, args=(str(tmp_path),), nprocs=2)
    found = [json.loads((tmp_path / f"found-{r}.json").read_text()) for r in (0, 1)]
    # Six videos in two files: each process has encoded one of them.
    assert [part["seen"] for part in found] == [4 * 3, 2 * 3]
    assert found[0]["sum"] == found[1]["sum"]
    source = DataSource("msvd", tmp_path / "data")
    rows, worst, _ = evaluate_on(source, tmp_path / "model", with_qb_norm=True)
    assert found[0]["rows"] == found[1]["rows"] == rows
    for alone, shared in zip(worst, found[0]["worst"], strict=True):
        assert shared["caption"] == alone["caption"]
        assert shared["score"] == pytest.approx(alone["score"], abs=1e-5)


def test_a_benchmark_with_unreadable_videos_is_a_status_and_not_an_error(tmp_path):
    root = tmp_path / "data"
    replicas.replica("msvd", root, lambda path, *_, **__: path.write_text("no video"))
    verify = ["data", "verify", str(root), "--dataset", "msvd", "--workers", "1"]
    result = runner.invoke(app, verify)
    assert result.exit_code == 1
    assert "glscl:" not in result.output


def test_a_table_of_ones_own_is_trained_on_and_evaluated(tmp_path, write_video):
    lines = ["path,caption"]
    for i in range(12):
        frames = np.full((8, 48, 64, 3), 20 * i, np.uint8)
        write_video(tmp_path / f"clip {i}.mp4", frames)
        lines += [f"clip {i}.mp4,a thing moves {i} times"]
    table, run = tmp_path / "table.csv", tmp_path / "run"
    table.write_text("\n".join([*lines, "gone.mp4,nobody knows"]))
    data = ["--dataset", str(table), "--data", str(tmp_path)]
    result = runner.invoke(app, ["train", *data, "--out", str(run), *settings()])
    assert result.exit_code == 1
    assert "gone.mp4" in result.output
    data += ["--missing", "drop"]
    result = runner.invoke(app, ["train", *data, "--out", str(run), *settings()])
    assert result.exit_code == 0, result.output
    assert "glscl, msrvtt, recommended" in result.output
    result = runner.invoke(app, ["eval", str(run / "best-000"), *data])
    assert result.exit_code == 0, result.output
    assert "held out as val" not in result.output
