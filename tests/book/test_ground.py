"""One ground: equal searches, runs that resume, a summary that says what they say."""

import json
from itertools import permutations

import numpy as np
import pytest
from toy import toy_videos

from book.experiments import ground, ground_summary
from book.experiments.ablations import Setup, settings_of
from book.experiments.formulas import Sizes
from book.experiments.ground import (
    GROUND,
    Entry,
    Ground,
    best_trial,
    kept_for_backward,
    milliseconds,
    run_all,
    run_once,
    run_trial,
    stored_trials,
    train,
)
from glscl.config import MODEL_CONFIGS, TrainConfig, override
from glscl.heads.clip4clip import CLIP4Clip

TINY = Ground(Setup("none", 8, 8, 8, 1, None), trial_epochs=1)
SMALL = {"temporal_layers": 0, "max_words": 16, "batch_size": 8}


@pytest.fixture
def videos(monkeypatch):
    made = {name: toy_videos(8, 2, name) for name in ("train", "val", "test")}
    monkeypatch.setattr(ground, "mini_videos", lambda setup: made)
    monkeypatch.setattr(ground, "clip_digest", lambda setup: "some weights")
    return made


@pytest.fixture
def two(monkeypatch):
    """A comparison of two cheap heads."""
    entries = {
        "mean pooling": Entry({"method": "clip4clip", **SMALL}),
        "TS2-Net": Entry({"method": "ts2net", **SMALL}, ("sharpness", (4.0, 16.0))),
    }
    for module in (ground, ground_summary):
        monkeypatch.setattr(module, "GROUND", entries)
    return entries


def test_every_method_has_as_many_trials_of_real_settings():
    assert {len(entry.trials()) for entry in GROUND.values()} == {4}
    for entry in GROUND.values():
        trials = entry.trials()
        assert len({json.dumps(changes) for changes in trials}) == 4
        for changes in trials:
            of_model, of_recipe = settings_of(changes)
            override(MODEL_CONFIGS[changes["method"]](), of_model)
            override(TrainConfig(), of_recipe)


def test_every_method_has_a_count():
    counted = ground_summary.macs(Sizes(D=64))
    assert counted.keys() == GROUND.keys()
    assert all(folded.pair <= plain.pair for plain, folded in counted.values())
    assert counted["mean pooling"][0].pair == 64


def test_runs_take_the_best_trial_and_are_not_run_again(
    tmp_path, videos, two, monkeypatch
):
    for name in two:
        with pytest.raises(FileNotFoundError, match="no trial with these settings"):
            run_once((name, 0), tmp_path, TINY)
        for number in range(4):
            run_trial((name, number), tmp_path, TINY)
        best = best_trial(stored_trials(name, tmp_path, TINY))
        for seed in (0, 1):
            run = run_once((name, seed), tmp_path, TINY)
            assert run["changes"] == best["changes"]
            assert (run["recipe"]["seed"], run["epochs"]) == (seed, 1)
            assert len(run["test"]["ranks"]) == 16
            assert run["kept_bytes"] > 0
            assert run["provenance"]["commit"]
    monkeypatch.delattr(ground, "train")
    assert run_once(("TS2-Net", 1), tmp_path, TINY) == run
    found = ground_summary.by_method(tmp_path)
    assert [len(found[name]) for name in two] == [2, 2]
    summary = ground_summary.summarise(tmp_path, TINY, "the command")
    row = summary["methods"]["TS2-Net"]
    assert row["t2v"]["R1"]["mean"] == np.mean(
        [one["test"]["t2v"]["R1"] for one in found["TS2-Net"]]
    )
    assert [t["changes"] for t in row["trials"]] == two["TS2-Net"].trials()
    (tmp_path / "ts2-net-seed1.json").unlink()
    found = ground_summary.by_method(tmp_path)
    assert [len(found[name]) for name in two] == [1, 1]
    (tmp_path / "ts2-net-seed0.json").unlink()
    with pytest.raises(FileNotFoundError, match="no seed has a run of every method"):
        ground_summary.by_method(tmp_path)


def test_a_head_of_the_readers_own_is_trained_and_measured(videos):
    class Own(CLIP4Clip):
        """The same by another name."""

    changes = {"method": "clip4clip", **SMALL}
    model, record = train(changes, 0, 1, videos, None, Own)
    assert isinstance(model, Own)
    assert record["parameters"] == 0
    assert len(record["validation_R1"]) == 1
    few, many = (kept_for_backward(model, videos["train"], n) for n in (2, 8))
    assert 0 < few < many
    assert milliseconds(model, videos["test"], 5, 5) > 0


def test_an_unknown_method_is_named(tmp_path):
    with pytest.raises(ValueError, match="Unknown method 'best'"):
        run_all(["best"], [0], tmp_path, TINY)


def test_rank_correlations_are_those_of_the_definition():
    assert ground_summary.ranks([3.0, 1.0, 3.0, 2.0]).tolist() == [3.5, 1, 3.5, 2]
    one, two = [10.0, 20.0, 30.0, 40.0], [1.0, 3.0, 2.0, 9.0]
    gaps = ground_summary.ranks(one) - ground_summary.ranks(two)
    expected = 1 - 6 * (gaps**2).sum() / (4 * 15)
    assert ground_summary.rank_correlation(one, two) == pytest.approx(expected)
    orders = [ground_summary.rank_correlation(one, p) for p in permutations(two)]
    share = np.mean([x >= expected - 1e-9 for x in orders])
    assert ground_summary.chance_of_correlation(one, two) == pytest.approx(share)
    with pytest.raises(ValueError, match="at most 8 values, got 9"):
        ground_summary.chance_of_correlation(range(9), range(9))
