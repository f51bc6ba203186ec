"""The benchmarks: a faithful baseline, fair timing, results that can be read back."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from benchmarks import (
    device,
    device_training,
    fused,
    measures,
    optimiser,
    results,
    timing,
)
from benchmarks.data import random_features, scoring_model
from benchmarks.memory import extra_mib
from benchmarks.released import TILE, released_macs, released_scores, unused_mlp
from book.experiments.counters import torch_macs
from book.experiments.formulas import Sizes
from book.experiments.shipped_heads import Texts, Videos, reference_heads
from glscl.gim import global_similarity

SMALL = Sizes(D=32, F=3, L=4, Q=2, P=2, C=4, H=4)


def test_the_released_schedule_gives_the_scores_of_the_model():
    model, features = scoring_model(SMALL), random_features(19, 35, SMALL)
    expected = model.similarity(features.text(), features.video())
    for mlp in (unused_mlp(SMALL.D), None):
        found = released_scores(*features, model.lim_video, mlp)
        assert found.shape == (19, 35)
        assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mlp", [True, False])
@pytest.mark.parametrize("tiles", [1, 2])
def test_the_cost_of_the_released_schedule_is_counted(mlp, tiles):
    N = tiles * TILE
    model, features = scoring_model(SMALL), random_features(N, N, SMALL)

    class Schedule(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lim = model.lim_video
            self.mlp = unused_mlp(SMALL.D) if mlp else None

        def forward(self):
            return released_scores(*features, self.lim, self.mlp)

    assert torch_macs(Schedule()) == released_macs(N, SMALL, mlp)


@pytest.mark.parametrize("cancel", [False, True])
def test_gim_in_one_kernel_gives_its_scores(monkeypatch, cancel):
    captions, _, frames = random_features(5, 7, SMALL)
    real = torch.ones(7, SMALL.F, dtype=torch.bool)
    if cancel:
        # Small captions weigh all frames nearly alike, and these nearly sum to zero.
        signs = torch.tensor([1.0, -1.0, 0.0])[:, None]
        captions, frames = 1e-3 * captions, frames[:, :1] * signs + 1e-2 * frames
    handed_over = []
    monkeypatch.setattr(fused, "VIDEOS", 3)
    monkeypatch.setattr(
        fused,
        "global_similarity",
        lambda *x: handed_over.append(x) or global_similarity(*x),
    )
    found = fused.fused_similarity(captions, frames)
    expected = global_similarity(captions, frames, real)
    assert_close(found, expected, rtol=0, atol=0 if cancel else 1e-6)
    assert bool(handed_over) == cancel


def test_a_ratio_compares_runs_of_the_same_round():
    lucky, slow = [1.0, 4.0, 4.0], [6.0, 6.0, 8.0]
    assert timing.typical_ratio(slow, lucky) == 2.0
    with pytest.raises(ValueError, match="shorter"):
        timing.typical_ratio(slow, lucky[:2])


def test_functions_take_turns_and_the_fastest_run_counts(monkeypatch):
    calls, clock = [], iter([0.0, 5.0, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0])
    monkeypatch.setattr(timing.time, "process_time", lambda: next(clock))
    functions = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    assert timing.fastest(functions, repeats=2) == {"a": 3.0, "b": 2.0}
    assert calls == ["a", "b"] * 3
    clock = iter([0.0, 7.0])
    assert timing.fastest({"a": calls.clear}, repeats=1, warm=False) == {"a": 7.0}


def test_several_threads_are_timed_on_the_wall(monkeypatch):
    assert timing.clock_name() == "CPU time"  # tests run with one thread
    monkeypatch.setattr(timing.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(timing.time, "perf_counter", iter([1.0, 5.0]).__next__)
    assert timing.clock_name() == "wall time"
    assert timing.fastest({"a": dict}, repeats=1) == {"a": 4.0}


@torch.no_grad()
def test_chunks_of_videos_do_not_change_scores():
    x = random_features(5, 7, SMALL)
    texts, videos = Texts(x.captions, x.tokens), Videos(x.frames)
    heads = reference_heads(SMALL)
    for head in (*heads["X-Pool"], *heads["GLSCL"], heads["WTI"][0]):
        states = head.per_query(texts), head.per_video(videos)
        for size in (1, 3, 16):
            found = measures.in_chunks(head, *states, size)
            assert_close(found, head.per_pair(*states), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def measured():
    """Every part but memory, at sizes that show only that it runs."""
    torch.manual_seed(0)
    return {
        "provenance": results.provenance(threads=1, small=True),
        "released": measures.released_against_package(18, 20, SMALL, repeats=1),
        "bare_product": measures.against_bare_product(9, SMALL, repeats=1),
        "heads": measures.every_head(6, 5, SMALL, repeats=1),
        "memory": {"GIM, Gram form": {"N": 9, "extra_mib": 1.0}},
        "evaluation": [
            {"captions": 3, "videos": 2, "scores_mib": 0.1, "extra_mib": 0.2}
        ],
        "growth": measures.growth(5, SMALL, {"N": (3,), "F": (2,)}, repeats=1),
        "throughput": measures.throughput(SMALL, 3, 2, "mini", repeats=1),
    }


def test_the_package_ranks_as_the_released_schedule_does(measured):
    part = measured["released"]
    assert part["largest_difference"] < 1e-6
    assert part["same_metrics"]
    assert part["largest_gap_ordered_otherwise"] <= 2 * part["largest_difference"]
    assert measured["bare_product"]["largest_error"] < 1e-6


def test_the_gap_of_a_swap_is_found_on_the_worst_row():
    a = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    b = torch.tensor([[3.0, 2.0, 1.0], [2.0, 1.0, 3.0]])
    assert measures.largest_gap_ordered_otherwise(a, a) == 0
    assert measures.largest_gap_ordered_otherwise(a, b) == 2


def test_folds_are_exact_where_they_are_timed(measured):
    folded = [row for row in measured["heads"] if "speedup" in row]
    assert {row["head"] for row in folded} == {"GLSCL", "DiCoSA", "X-Pool", "GLCCL"}
    for row in folded:
        assert row["folded_relative_error"] < 1e-5
        assert row["folded_macs_per_pair"] < row["macs_per_pair"]


def test_results_are_written_whole_and_read_back(measured, tmp_path):
    text = results.write_results(measured, tmp_path / "out", tmp_path / "record.json")
    written = (tmp_path / "out" / "benchmark.json").read_text()
    assert json.loads(written) == json.loads(json.dumps(measured))
    assert (tmp_path / "record.json").read_text() == written
    assert (tmp_path / "out" / "benchmark.md").read_text() == text
    assert not list(tmp_path.rglob("*.partial"))
    for heading in "abcdef":
        assert f"## ({heading})" in text
    for row in measured["heads"]:
        assert row["head"] in text


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc"
)
def test_peak_memory_sees_what_is_allocated():
    # The scores of 900 × 900 take 3 MiB, those of their frames three times as much.
    assert 9 < extra_mib("GIM, Gram form", 900, SMALL) < 60


def test_the_benchmark_of_a_device_runs_and_can_be_read(monkeypatch):
    monkeypatch.setattr(device_training, "WARM", 1)
    monkeypatch.setattr(device_training, "STEPS", 1)
    cpu = torch.device("cpu")
    steps = device_training.training_steps("mini", 2, cpu, compiled=False)
    assert [(row["precision"], row["clip_arithmetic"]) for row in steps] == [
        ("fp32", "float32"),
        ("bf16", "float32"),
        ("fp16", "float32"),
        ("fp32", "released"),
        ("bf16", "released"),
    ]
    data = {
        "provenance": results.provenance(1, True, "benchmarks.device"),
        "bounds": device.bounds(16, cpu, repeats=1),
        "scoring": device.scoring(5, SMALL, cpu, repeats=1),
        "heads": [{"N": 6, **row} for row in measures.every_head(6, 5, SMALL, 1, cpu)],
        "training": steps,
        "optimiser": optimiser.optimiser_steps("mini", cpu, repeats=1),
        "agreement": device_training.agreement("mini", 2, cpu),
    }
    assert data["agreement"]["largest_relative_difference"] == 0.0
    assert all(row["same bits"] for row in data["optimiser"])
    for row in data["scoring"]:
        if row["what"] == "GIM":
            assert row["largest_error"] < (0.01 if row["precision"] == "bf16" else 1e-6)
    product = next(row for row in data["scoring"] if row["what"] == "bare product")
    assert product["macs"] == 5 * 5 * SMALL.F * SMALL.D
    numbers = 5 * SMALL.D + 5 * SMALL.F * SMALL.D + 5 * SMALL.F * 5
    assert product["bytes"] == 4 * numbers
    text = device.markdown(json.loads(json.dumps(data)))
    assert "| 5 | GIM | tf32 |" in text


def test_decoding_is_compared_on_small_files_and_large_ones(tmp_path):
    pytest.importorskip("decord")
    from benchmarks import decode

    small, large = decode.ratios(tmp_path, clips=1, seconds=4, repeats=1)
    assert (small[2], large[2]) == ("PyAV", "decord")
    for _, files, _, package, plain, ratio in (small, large):
        assert files == 1
        assert ratio == pytest.approx(package / plain)
