"""The ablation: runs that resume, a table that says what the runs say."""

import json
from dataclasses import asdict

import pytest
import torch
from toy import toy_model, toy_videos
from typer.testing import CliRunner

from book.experiments import __main__ as command
from book.experiments import ablations as runner
from book.experiments.ablations import (
    ALL_VARIANTS,
    VARIANTS,
    Setup,
    run_once,
    run_path,
    settings_of,
    stored_runs,
    train_variant,
)
from book.experiments.arithmetic import ARITHMETIC, MINI_RATES, Movement, weight_set
from book.experiments.hard_negatives import HARD_NEGATIVE_KINDS
from book.experiments.summary import PAIRS, difference, summarise
from glscl.config import MODEL_CONFIGS, TrainConfig, override

TINY = Setup(epochs=1, train_clips=8, val_clips=8, test_clips=8, pretrained=None)


@pytest.fixture
def videos(monkeypatch):
    made = {name: toy_videos(8, 2, name) for name in ("train", "val", "test")}
    monkeypatch.setattr(runner, "mini_videos", lambda *_: made)
    return made


@pytest.fixture(autouse=True)
def weights(monkeypatch):
    """Random weights differ from load to load; let their digest be a constant."""
    monkeypatch.setattr(runner, "clip_digest", lambda setup: "some weights")


def test_variants_name_real_settings_and_pairs_real_variants():
    for changes in ALL_VARIANTS.values():
        of_model, of_recipe = settings_of(changes)
        override(MODEL_CONFIGS[changes.get("method", "glscl")](), of_model)
        override(TrainConfig(), of_recipe)
        assert set(changes.get("hard_negatives", ())) <= set(HARD_NEGATIVE_KINDS)
    assert {name for pair in PAIRS for name in pair} <= ALL_VARIANTS.keys()


def test_every_run_has_a_file_of_its_own(tmp_path):
    paths = {run_path(tmp_path, name, n) for name in ALL_VARIANTS for n in (0, 1)}
    assert len(paths) == 2 * len(ALL_VARIANTS)
    assert all(
        set(path.stem) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for path in paths
    )


def test_a_variant_is_trained_as_it_says_and_repeats(videos):
    changes = {**VARIANTS["+ GIM"], "max_words": 16, "temporal_layers": 1}
    model, record = train_variant(changes, 0, videos, TINY)
    assert not model.config.local
    assert model.config.pooling == "gim"
    _, again = train_variant(changes, 0, videos, TINY)
    _, other = train_variant(changes, 1, videos, TINY)
    assert record["loss"] == again["loss"] != other["loss"]
    assert record["test"] == again["test"]
    assert len(record["test"]["ranks"]) == 16


def test_a_variant_may_change_the_recipe_too(videos):
    changes = {**VARIANTS["+ GIM"], "temporal_layers": 1, "hard_negatives": ["motion"]}
    changes |= {"epochs": 2, "group_size": 2, "batch_size": 4}
    model, record = train_variant(changes, 0, videos, TINY)
    assert record["recipe"]["epochs"] == 2
    assert record["recipe"]["group_size"] == 2
    assert len(record["loss"]) == 4
    assert model.config.temporal_layers == 1


def test_a_run_with_a_file_is_not_run_again_unless_settings_changed(
    videos, tmp_path, monkeypatch
):
    first = run_once("mean pooling", 0, tmp_path, TINY)

    def never(*_, **__):
        raise AssertionError("ran again")

    monkeypatch.setattr(runner, "train_variant", never)
    assert run_once("mean pooling", 0, tmp_path, TINY) == json.loads(
        run_path(tmp_path, "mean pooling", 0).read_text()
    )
    assert first["provenance"]["torch"] == torch.__version__
    with pytest.raises(AssertionError, match="ran again"):
        run_once("mean pooling", 0, tmp_path, Setup(epochs=2))
    monkeypatch.setattr(runner, "clip_digest", lambda setup: "other weights")
    with pytest.raises(AssertionError, match="ran again"):
        run_once("mean pooling", 0, tmp_path, TINY)


def test_longer_runs_measure_the_accuracy_on_hard_negatives(
    videos, tmp_path, monkeypatch
):
    families = toy_videos(16, 2, "val")
    monkeypatch.setattr(runner, "hard_negative_videos", lambda _: families)
    monkeypatch.setitem(ALL_VARIANTS, "all, longer", {"local": False})
    record = run_once("all, longer", 0, tmp_path, TINY)
    accuracy = record["hard_negative_accuracy"]
    assert set(accuracy) == set(HARD_NEGATIVE_KINDS)
    other = run_once("mean pooling", 0, tmp_path, TINY)
    assert "hard_negative_accuracy" not in other
    row = summarise([record], "c")["variants"]["all, longer"]
    assert row["hard_negative_accuracy"]["motion"]["mean"] == accuracy["motion"]


def fake_run(variant, seed, ranks):
    """A record whose test ranks are given, two captions per video."""
    R1 = 100 * sum(rank <= 1 for rank in ranks) / len(ranks)
    values = {"R1": R1, "R5": R1, "R10": R1, "MdR": 1.0, "MnR": 1.0}
    test = {"t2v": {**values, "gallery": len(ranks) // 2}, "v2t": values}
    test |= {"kinds": {"single": values}, "ranks": ranks}
    return {
        "variant": variant,
        "seed": seed,
        "changes": {},
        "setup": asdict(TINY),
        "clip": "some weights",
        "provenance": {},
        "seconds": 1.0,
        "val": test,
        "test": test,
    }


def test_summary_holds_means_over_seeds_and_paired_differences():
    records = [
        fake_run("temporal", 0, [1, 2, 3, 4]),
        fake_run("temporal", 1, [1, 1, 3, 4]),
        fake_run("GIM + LIM", 0, [1, 1, 3, 4]),
        fake_run("GIM + LIM", 1, [1, 1, 1, 1]),
    ]
    summary = summarise(records, "the command")
    R1 = summary["variants"]["GIM + LIM"]["t2v"]["R1"]
    assert R1["each"] == [50, 100]
    assert R1["mean"] == 75
    assert R1["std"] == pytest.approx(50 / 2**0.5)
    (only,) = summary["differences"]
    assert (only["variant"], only["baseline"]) == ("GIM + LIM", "temporal")
    assert only["each"] == [25, 50]
    assert only["mean"] == 37.5
    low, high = only["interval"]
    assert low <= 37.5 <= high
    assert summary["seconds"] == 4


def test_differences_use_the_seeds_both_have():
    one = {seed: fake_run("a", seed, [1, 1]) for seed in (0, 2)}
    two = {seed: fake_run("b", seed, [1, 2]) for seed in (1, 2)}
    assert difference(one, two, "a", "b")["seeds"] == [2]


def test_summary_reads_every_run_of_its_setup_in_the_order_of_the_table(tmp_path):
    for run in (
        fake_run("all", 0, [1, 1]),
        fake_run("temporal", 1, [1, 1]),
        fake_run("temporal", 0, [1, 1]),
        {**fake_run("temporal", 7, [1, 1]), "setup": asdict(Setup(epochs=3))},
        {**fake_run("temporal", 8, [1, 1]), "clip": "other weights"},
    ):
        path = run_path(tmp_path, run["variant"], run["seed"])
        path.write_text(json.dumps(run))
    found = [(run["variant"], run["seed"]) for run in stored_runs(tmp_path, TINY)]
    assert found == [("temporal", 0), ("temporal", 1), ("all", 0)]


def test_unknown_variants_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Unknown variant 'magic'"):
        runner.run_all(["magic"], [0], tmp_path, TINY)


@pytest.mark.parametrize(
    ("words", "folder", "variants"),
    [
        (["ablate", "--related"], "ablation", [*VARIANTS, *runner.RELATED]),
        (["sweeps"], "sweeps", ["GIM + LIM", "all", *runner.SWEEPS]),
        (["longer"], "longer", ["all", *runner.LONGER]),
    ],
)
def test_a_command_resumes_and_writes_its_summary(
    words, folder, variants, tmp_path, monkeypatch
):
    monkeypatch.setattr(command, "run_all", lambda *given: asked.append(given))
    monkeypatch.setattr(command, "stored_runs", lambda *_: [run])
    asked, run = [], fake_run("all", 0, [1, 1])
    words = [*words, "--out", str(tmp_path), "--seeds", "2"]
    result = CliRunner().invoke(command.app, words)
    assert result.exit_code == 0, result.output
    ((names, seeds, runs, setup, processes),) = asked
    assert names == variants
    assert (list(seeds), runs) == ([0, 1], tmp_path / folder)
    assert (setup, processes) == (Setup(epochs=6, test_clips=1000), 1)
    assert (
        "all                text to video R@1 100.0 ± 0.0 % (1 seeds)" in result.output
    )
    summary = json.loads((tmp_path / f"{folder}.json").read_text())
    assert list(summary["variants"]) == ["all"]


def test_each_arithmetic_and_the_other_rates_have_all_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "run_all", lambda *given: asked.append(given))
    monkeypatch.setattr(command, "stored_runs", lambda *_: [run])
    asked, run = [], fake_run("mini rates", 0, [1, 1])
    words = ["arithmetic", "--out", str(tmp_path)]
    result = CliRunner().invoke(command.app, words)
    assert result.exit_code == 0, result.output
    runs = [(list(names), list(seeds)) for names, seeds, *_ in asked]
    assert runs == [([*ARITHMETIC, *MINI_RATES], [0, 1, 2, 3, 4])]
    assert asked[0][2] == tmp_path / "arithmetic"
    assert asked[0][3].test_clips == 1000
    summary = json.loads((tmp_path / "arithmetic.json").read_text())
    assert list(summary["variants"]) == ["mini rates"]


def test_an_unknown_variant_is_one_sentence(tmp_path):
    words = ["ablate", "--out", str(tmp_path), "--variant", "magic"]
    result = CliRunner().invoke(command.app, words)
    assert result.exit_code == 1
    assert "Unknown variant 'magic'" in result.output


def test_movement_is_the_distance_from_the_start_at_the_end_of_every_epoch():
    model = toy_model()
    movement = Movement(model, steps_per_epoch=2)
    weights = dict(model.named_parameters())
    trained = {n: w.detach().clone() for n, w in weights.items() if w.requires_grad}
    matrix = weights["backbone.clip.text_projection"]
    for step, by in ((1, 3.0), (2, 0.5), (3, 0.25), (4, 0.0)):
        with torch.no_grad():
            matrix[0, :4] += by
            weights["lim_video.queries"] += by
        movement.after_step({"step": step})
    clip = movement.sets["CLIP's matrices"]
    assert clip["distance"] == pytest.approx([3.5 * 2, 3.75 * 2])
    members = [n for n in trained if weight_set(n) == "CLIP's matrices"]
    numbers = sum(trained[name].numel() for name in members)
    assert clip["moved"] == pytest.approx([4 / numbers] * 2)
    squares = sum(trained[name].double().square().sum() for name in members)
    assert clip["start"] == pytest.approx(squares.sqrt().item())
    queries = weights["lim_video.queries"].numel()
    new = movement.sets["new modules"]
    assert new["distance"][-1] == pytest.approx(3.75 * queries**0.5)
    assert movement.sets["rest of CLIP"]["distance"] == [0, 0]


def test_a_run_records_how_far_its_weights_moved(videos):
    changes = {**MINI_RATES["mini rates"], "temporal_layers": 1, "epochs": 2}
    changes |= {"num_decoder_layers": 1, "precision": "bf16"}
    _, record = train_variant(changes, 0, videos, TINY)
    _, exact = train_variant({**changes, "precision": "fp32"}, 0, videos, TINY)
    assert record["loss"] != exact["loss"] == pytest.approx(record["loss"], rel=0.1)
    for found in record["movement"].values():
        assert len(found["distance"]) == len(found["moved"]) == 2
        assert found["distance"][-1] > 0
    row = summarise([fake_run("all", 0, [1, 1]) | record], "c")["variants"]["all"]
    clip = record["movement"]["CLIP's matrices"]
    assert row["movement"]["CLIP's matrices"]["distance"]["mean"] == clip["distance"][1]


def test_the_matrices_of_clip_are_what_the_release_converts():
    model = toy_model()
    model.backbone.convert_weights()
    trained = [(n, w) for n, w in model.named_parameters() if w.requires_grad]
    half = {name for name, w in trained if w.dtype == torch.float16}
    assert half == {n for n, _ in trained if weight_set(n) == "CLIP's matrices"}


def test_the_released_arithmetic_moves_the_matrices_of_clip_further(videos):
    moved = {}
    for arithmetic in ("float32", "released"):
        changes = {**ARITHMETIC[f"published rates, {arithmetic}"], "epochs": 3}
        changes |= {"temporal_layers": 1, "num_decoder_layers": 1, "batch_size": 4}
        _, record = train_variant(changes, 0, videos, TINY)
        moved[arithmetic] = record["movement"]["CLIP's matrices"]["distance"][-1]
    assert moved["released"] > 5 * moved["float32"]
