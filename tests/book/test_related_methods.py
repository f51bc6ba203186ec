"""The related methods: the same trainer, files and commands; what is measured."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from toy import toy_model, toy_recipe, toy_related, toy_videos, weights
from typer.testing import CliRunner

import glscl
from benchmarks.related_methods import per_query, two_stage
from book.experiments.ablations import Setup, train_variant
from book.experiments.formulas import Sizes
from book.experiments.related_methods import (
    level_scores,
    related_measures,
    score_variance,
    top_agreement,
    two_stage_sweep,
)
from glscl.cli import app
from glscl.config import get_preset, preset_names
from glscl.eercf import recalled
from glscl.evaluate import evaluate
from glscl.losses import channel_correlation
from glscl.optim import freeze
from glscl.runs import load_model
from glscl.train import RunOptions, _Run, fit
from glscl.util import parallel
from glscl.util.run_folder import RunFolder

QUIET = RunOptions(progress=False)
METHODS = ("eercf", "glccl")
PATCHES = {"eercf": 2, "glccl": 0}


@pytest.fixture
def double():
    """Float64, so that a difference is one of the computation, not of rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def gradients_of(method, options):
    model = toy_related(method).double()
    videos = toy_videos(patches=PATCHES[method])
    run = _Run(model, videos, toy_recipe(), None, options)
    batch = next(run._rest_of_epoch())
    losses = run.backward(batch)
    named = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return losses, named


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("method", METHODS)
def test_large_batch_mode_has_the_loss_and_gradients_of_the_whole_batch(method):
    plain, parts = (
        gradients_of(method, replace(QUIET, micro_batch=size)) for size in (None, 3)
    )
    for one, two in zip(plain[0], parts[0], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
    assert plain[1].keys() == parts[1].keys()
    for name, gradient in plain[1].items():
        torch.testing.assert_close(
            parts[1][name], gradient, rtol=1e-8, atol=1e-9, msg=name
        )


@pytest.mark.parametrize("method", METHODS)
def test_a_related_method_overfits_one_batch(method):
    recipe = toy_recipe(epochs=30, clip_lr_scale=1.0)
    videos = toy_videos(8, 1, patches=PATCHES[method])
    history = fit(toy_related(method), videos, recipe, options=QUIET)
    first, last = history.steps[0], history.steps[-1]
    assert last["total"] < 0.5 * first["total"]
    assert all(value == value for value in last.values())


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_resumes_and_a_saved_model_is_found_by_its_method(
    method, tmp_path, monkeypatch
):
    videos, val = (
        toy_videos(n, 2, name, PATCHES[method])
        for n, name in ((16, "train"), (6, "val"))
    )
    whole = toy_related(method)
    fit(whole, videos, toy_recipe(epochs=2), val, QUIET)
    options = replace(QUIET, folder=tmp_path)

    class StopError(Exception):
        pass

    log = RunFolder.log

    def stop(self, record, step):
        log(self, record, step)
        if step == 3:
            raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", stop)
        with pytest.raises(StopError):
            fit(toy_related(method), videos, toy_recipe(epochs=2), val, options)
    resumed = toy_related(method)
    fit(resumed, videos, toy_recipe(epochs=2), val, options)
    expected = weights(whole)
    assert all(torch.equal(x, expected[n]) for n, x in weights(resumed).items())
    (folder,) = tmp_path.glob("best-*")
    loaded = load_model(folder)
    assert loaded.method == method
    assert asdict(loaded.config) == asdict(resumed.config)
    torch.testing.assert_close(
        evaluate(loaded, val).similarity, evaluate(resumed, val).similarity
    )
    with pytest.raises(ValueError, match=f"method '{method}', expected 'glscl'"):
        glscl.GLSCL.load(folder)


@pytest.mark.parametrize("method", METHODS)
def test_scores_in_small_batches_are_the_scores_at_once(method):
    model, videos = toy_related(method), toy_videos(9, 3, patches=PATCHES[method])
    whole = evaluate(model, videos, batch_size=100).similarity
    for size in (1, 4):
        found = evaluate(model, videos, batch_size=size).similarity
        torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)


def test_words_are_padded_to_the_longest_process_without_changing_the_loss(monkeypatch):
    model = toy_related("glccl")
    run = _Run(model, toy_videos(), toy_recipe(), None, QUIET)
    batch = next(run._rest_of_epoch()).trimmed()
    text, video = model(
        batch.token_ids, batch.token_mask, batch.content, batch.frame_mask
    )
    plain = model.loss(*model.loss_features(text, video))
    L = text.tokens.shape[1]
    monkeypatch.setattr(parallel, "max_over_ranks", lambda n: n + 3)
    longer = model.loss_features(text, video)
    assert longer[0].tokens.shape[1] == longer[0].mask.shape[1] == L + 3
    torch.testing.assert_close(model.loss(*longer), plain)


@pytest.mark.parametrize("method", METHODS)
def test_presets_are_there_for_the_same_benchmarks(method):
    assert set(preset_names(method)) == set(preset_names())
    released = get_preset("didemo", method=method)
    assert (released.model.max_words, released.model.max_frames) == (64, 64)
    assert released.train.freeze == "embeddings"
    with pytest.raises(ValueError, match="Unknown preset 'charades'"):
        get_preset("charades", method=method)
    with pytest.raises(ValueError, match="Unknown method 'x-clip'"):
        get_preset("mini", method="x-clip")


def test_freezing_the_embeddings_leaves_blocks_and_projections_trainable():
    model = toy_related("glccl")
    freeze(model, "embeddings")
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    clip = "backbone.clip."
    for name in ("visual.ln_post.weight", "visual.proj", "text_projection"):
        assert clip + name in trained
    assert clip + "visual.transformer.resblocks.0.ln_1.weight" in trained
    for name in (
        "visual.conv1.weight",
        "visual.ln_pre.weight",
        "token_embedding.weight",
    ):
        assert clip + name not in trained
    assert "temporal.positions" in trained


@pytest.mark.parametrize("method", METHODS)
def test_train_and_eval_commands_take_a_method(method, clips_root, tmp_path):
    run = CliRunner().invoke
    changes = ("pretrained=null", "epochs=1", "batch_size=8", "temporal_layers=1")
    words = [word for pair in (*changes, "max_frames=3") for word in ("--set", pair)]
    out = tmp_path / "run"
    command = [
        "train",
        "--method",
        method,
        "--data",
        str(clips_root),
        "--out",
        str(out),
    ]
    result = run(app, [*command, *words])
    assert result.exit_code == 0, result.output
    table = tmp_path / "table"
    result = run(
        app,
        [
            "eval",
            str(out / "best-000"),
            "--data",
            str(clips_root),
            "--out",
            str(table),
        ],
    )
    assert result.exit_code == 0, result.output
    about = json.loads(table.with_suffix(".json").read_text())["about"]
    assert about["method"] == method


@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_an_ablation_holds_the_measures_of_its_method(method):
    videos = {
        name: toy_videos(8, 2, name, PATCHES[method])
        for name in ("train", "val", "test")
    }
    setup = Setup(epochs=1, pretrained=None)
    changes = {"method": method, "max_words": 16, "max_frames": 5}
    model, record = train_variant({**changes, "temporal_layers": 1}, 0, videos, setup)
    assert record["method"] == model.method == method
    new = sum(p.numel() for n, p in model.named_parameters() if "backbone" not in n)
    assert record["parameters"] == new
    json.dumps(record)
    expected = {"eercf": {"correlation", "two_stage"}, "glccl": {"variance"}}[method]
    assert record["measures"].keys() == {"levels", *expected}


def test_levels_of_a_split_make_up_its_scores():
    model, videos = toy_related("eercf"), toy_videos(6, 2, patches=2)
    levels = level_scores(model, videos, batch_size=5)
    parts = ((0.5, "video"), (0.8, "frame weak"), (0.2, "frame strong"))
    total = sum(w * levels[name] for w, name in (*parts, (0.2, "patch weak")))
    torch.testing.assert_close(total, evaluate(model, videos).similarity)
    model, videos = toy_related("glccl"), toy_videos(6, 2)
    levels = torch.stack(list(level_scores(model, videos, batch_size=5).values()))
    torch.testing.assert_close(levels.mean(dim=0), evaluate(model, videos).similarity)
    with pytest.raises(ValueError, match="'glscl' has no levels"):
        related_measures(toy_model(), videos, videos)


def test_score_variance_distinguishes_own_pairs_from_others():
    own = torch.tensor([1, 0, 1])
    levels = torch.zeros(4, 3, 2)
    levels[0] = 2.0  # variance 1 everywhere
    levels[:, torch.arange(3), own] = 5.0  # the levels agree on the captions' videos
    found = score_variance(levels, own)
    assert found == {"own": 0.0, "other": 1.0, "ratio": 0.0}


def test_correlation_is_that_of_numpy():
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).double()
    y = x + torch.randn(9, 4, generator=torch.Generator().manual_seed(1)).double()
    found = channel_correlation(x, y)
    for d in range(4):
        expected = torch.corrcoef(torch.stack([x[:, d], y[:, d]]))[0, 1] * 8 / 9
        torch.testing.assert_close(found[d], expected)


def test_the_sweep_ends_in_dense_scores_and_agreement_grows():
    model, videos = toy_related("eercf"), toy_videos(12, 2, patches=2)
    rows = two_stage_sweep(model, videos, (1, 6, 99))
    assert [row["k"] for row in rows] == [1, 6, 12]
    assert rows[-1]["top10"] == 1
    assert rows[0]["scored"] == 24
    assert rows[-1]["v2t_columns"] == rows[-1]["v2t_own"]
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    assert top_agreement(scores, scores.flip(1), 2) == 0
    assert top_agreement(scores, scores[:, [1, 0, 2, 3]], 2) == 1
    assert top_agreement(scores, scores[:, [0, 2, 1, 3]], 2) == 0.5


def test_a_shortlist_is_of_captions_or_of_videos():
    coarse = torch.tensor([[3.0, 2.0, 1.0], [6.0, 5.0, 4.0]])
    rows = recalled(coarse, 1)
    assert rows.tolist() == [[True, False, False], [True, False, False]]
    columns = recalled(coarse, 1, "captions of videos")
    assert columns.tolist() == [[False] * 3, [True] * 3]
    assert recalled(coarse, 9).all()


def test_the_benchmark_counts_what_runs_and_its_formula_agrees():
    """The one difference: a recalled pair's coarse score is taken once more."""
    N, k, sizes = 20, 4, Sizes(D=64, F=3, L=4, Q=2, P=2)
    found = two_stage(N, sizes, (k, N), 1)
    assert found["dense_macs"] == found["formula_dense_macs"]
    some, everything = found["shortlists"]
    assert some["macs"] == some["formula_macs"] + N * k * sizes.D
    assert some["times_fewer_macs"] > 2
    assert everything["top10"] == 1
    rows = {row["method"]: row for row in per_query(N, sizes, 1)}
    frames = sizes.F * (sizes.D * 4 + 1)  # float32 and one byte of mask
    assert rows["GLCCL, folded"]["video_bytes"] == frames
    assert rows["GLSCL"]["video_bytes"] == frames + 4 * sizes.Q * sizes.D
    assert all(row["seconds"] > 0 for row in rows.values())
