"""Training: the same numbers however it is carried out, and after a kill."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch.utils._python_dispatch import TorchDispatchMode
from toy import toy_model, toy_recipe, toy_related, toy_split, toy_videos, weights
from two_processes import join

from glscl.data.loader import FrameSpec, VideoDataset
from glscl.data.pairs import CachedVideos, epoch_order, rand_augment
from glscl.data.split import Split
from glscl.data.video import VideoError
from glscl.evaluate import evaluate
from glscl.model import GLSCL
from glscl.train import History, NonFiniteError, RunOptions, _Run, fit
from glscl.util import parallel
from glscl.util.run_folder import RunFolder

QUIET = RunOptions(progress=False)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def double():
    """Float64, so that a difference is one of the computation, not of rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def gradients_of(options, model=None):
    """Losses and gradients of the first batch of a run, nothing updated, float64."""
    model = (model or toy_model(dropout=0.0)).double()
    run = _Run(model, toy_videos(), toy_recipe(), None, options)
    losses = run.backward(next(run._rest_of_epoch()))
    parallel.average_gradients(run.parameters)
    named = {
        name: parameter.grad
        for name, parameter in run.model.named_parameters()
        if parameter.grad is not None
    }
    return losses, named


def assert_same_gradients(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-9, atol=1e-9, msg=f"gradient of {name}"
        )


def test_same_seed_gives_the_same_bits_whatever_the_callers_generator():
    results = []
    for noise in (1, 2):
        model = toy_model()
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        fit(model, toy_videos(), toy_recipe(), toy_videos(6, name="val"), QUIET)
        assert torch.equal(before, torch.get_rng_state())
        results.append(weights(model))
    assert same(*results)


def test_a_split_of_token_ids_trains_and_is_evaluated_as_its_text():
    model, recipe = toy_model(), toy_recipe(epochs=1)
    plain, ids = toy_videos(), toy_videos()
    tokens, real = model.backbone.tokenize(plain.split.texts, 32)
    captions = tuple(
        replace(caption, text="", token_ids=tuple(row[keep].tolist()))
        for caption, row, keep in zip(plain.split.captions, tokens, real, strict=True)
    )
    ids.split = replace(ids.split, captions=captions)
    expected = fit(model, plain, recipe, toy_videos(6, name="val"), QUIET)
    other = toy_model()
    found = fit(other, ids, recipe, toy_videos(6, name="val"), QUIET)
    assert [s["total"] for s in found.steps] == [s["total"] for s in expected.steps]
    assert torch.equal(
        evaluate(model, plain).similarity, evaluate(other, ids).similarity
    )


def test_another_seed_gives_another_model():
    one, two = toy_model(), toy_model()
    fit(one, toy_videos(), toy_recipe(epochs=1), options=QUIET)
    fit(two, toy_videos(), toy_recipe(epochs=1, seed=1), options=QUIET)
    assert not same(weights(one), weights(two))


def test_a_model_overfits_one_batch():
    recipe = toy_recipe(epochs=30, clip_lr_scale=1.0)
    history = fit(toy_model(), toy_videos(8, 1), recipe, options=QUIET)
    assert history.steps[-1]["info_nce"] < 0.1 * history.steps[0]["info_nce"]


def test_frozen_tower_stays_and_the_rest_moves():
    model = toy_model()
    before = weights(model)
    fit(model, toy_videos(), toy_recipe(), options=QUIET)
    for name, value in weights(model).items():
        if name.startswith("backbone.clip.visual."):
            assert torch.equal(value, before[name])
    assert not torch.equal(
        before["backbone.clip.text_projection"], model.backbone.clip.text_projection
    )


def test_history_and_log_name_every_part(tmp_path):
    validation, options = toy_videos(6, name="val"), replace(QUIET, folder=tmp_path)
    history = fit(toy_model(), toy_videos(), toy_recipe(), validation, options)
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    assert [record for record in logged if "step" in record] == history.steps
    assert [record for record in logged if "step" not in record] == history.epochs
    assert [record["step"] for record in history.steps] == [1, 2, 3, 4]
    for record in history.steps:
        parts = record["info_nce"] + record["icl"] + record["idl"]
        assert record["total"] == pytest.approx(parts, rel=1e-5)
        assert record["seconds"] > 0
        assert record["kappa"] <= 100
        assert record["gradient_norm"] > 0
    assert [record["epoch"] for record in history.epochs] == [0, 1]
    assert history.best_epoch in (0, 1)
    assert history.seconds > 0


def test_best_epoch_is_chosen_on_validation_and_restored(tmp_path):
    validation = toy_videos(12, name="val")
    options = replace(QUIET, folder=tmp_path)
    model = toy_model()
    history = fit(model, toy_videos(), toy_recipe(epochs=4), validation, options)
    keys = [
        (r["validation"]["t2v"]["R1"], -r["validation"]["t2v"]["MnR"])
        for r in history.epochs
    ]
    assert history.best_epoch == keys.index(max(keys))
    kept = [path.name for path in tmp_path.glob("best-*")]
    assert kept == [f"best-{history.best_epoch:03d}"]
    assert same(weights(GLSCL.load(tmp_path / kept[0])), weights(model))


def test_choosing_on_the_test_split_must_be_said():
    test = toy_videos(6, name="test")
    with pytest.raises(ValueError, match="select_on='test'"):
        fit(toy_model(), toy_videos(), toy_recipe(), test, QUIET)
    said = toy_recipe(epochs=1, select_on="test")
    assert fit(toy_model(), toy_videos(), said, test, QUIET).epochs


def test_looks_come_after_step_1_and_every_so_many_steps_and_where_epochs_end(tmp_path):
    recipe = toy_recipe(epochs=2, batch_size=2, look_every=3)
    options = replace(QUIET, folder=tmp_path)
    validation = toy_videos(6, name="val")
    history = fit(toy_model(), toy_videos(), recipe, validation, options)
    assert len(history.steps) == 16
    assert [look["after"] for look in history.looks] == [1, 3, 6, 9, 12, 15]
    assert [look["after"] for look in history.epochs] == [8, 16]
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    assert logged == history.records()
    # Looking changes nothing but what is known.
    blind = replace(recipe, look_every=None)
    plain = fit(toy_model(), toy_videos(), blind, validation, QUIET)
    assert [s["total"] for s in plain.steps] == [s["total"] for s in history.steps]


def metrics(R1, R5=50.0, R10=60.0, MnR=9.0):
    return {"t2v": {"R1": R1, "R5": R5, "R10": R10, "MnR": MnR}}


@pytest.mark.parametrize(
    ("keep", "before", "new", "wins"),
    [
        ("best", [], metrics(1.0), True),
        ("best", [metrics(40.0)], metrics(40.0), False),
        ("best", [metrics(40.0)], metrics(40.0, MnR=8.0), True),
        ("released", [metrics(40.0)], metrics(40.0, MnR=99.0), True),
        ("released", [metrics(40.0), metrics(30.0)], metrics(39.0), False),
        ("recalls", [metrics(40.0)], metrics(39.0, R5=51.0), True),
        ("recalls", [metrics(40.0)], metrics(41.0, R5=48.0), False),
    ],
)
def test_an_epoch_is_kept_by_the_rule_of_its_program(keep, before, new, wins):
    looks = [{"validation": one} for one in before]
    assert History(looks=looks[:1], epochs=looks[1:]).wins(new, keep) == wins


def test_weights_of_the_end_remain_where_a_look_within_beats_every_epoch(
    tmp_path, monkeypatch
):
    recalls = iter([90.0, 10.0, 20.0, 30.0])  # after step 1, then after epochs

    def evaluated(self, validation):
        found = {"t2v": {"R1": next(recalls), "MnR": 1.0}}
        where = {"epoch": (self.step - 1) // 2, "after": self.step}
        return {**where, "validation": found, "seconds": 0.1}

    monkeypatch.setattr(_Run, "_evaluated", evaluated)
    recipe = toy_recipe(epochs=3, look_every=100, keep="released")
    model, options = toy_model(), replace(QUIET, folder=tmp_path)
    validation = toy_videos(6, name="val")
    history = fit(model, toy_videos(), recipe, validation, options)
    assert [epoch["kept"] for epoch in history.epochs] == [False] * 3
    assert history.best_epoch == 2
    last = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"]
    assert same(last, weights(model))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("micro", [3, 4, 1])
@pytest.mark.parametrize("local", [True, False])
def test_large_batch_mode_has_the_loss_and_gradients_of_the_whole_batch(micro, local):
    plain, parts = (
        gradients_of(
            replace(QUIET, micro_batch=size), toy_model(dropout=0, local=local)
        )
        for size in (None, micro)
    )
    torch.testing.assert_close(plain[0], parts[0], rtol=1e-9, atol=1e-9)
    assert_same_gradients(parts[1], plain[1])


def test_large_batch_mode_draws_the_same_dropout_twice():
    """With the dropout of the second pass another, the two passes would disagree and
    a loss of them would not fall along the gradient."""
    model = toy_model(dropout=0.5)
    options = replace(QUIET, micro_batch=3)
    run = _Run(model, toy_videos(), toy_recipe(), None, options)
    model.train()
    batch = next(run._rest_of_epoch())
    first, again, other = (run._encode(batch, 0, chunk)[1] for chunk in (0, 0, 1))
    assert torch.equal(first.concepts, again.concepts)
    assert not torch.equal(first.concepts, other.concepts)


RECIPES = {
    "float32": toy_recipe(),
    "released": toy_recipe(
        clip_arithmetic="released",
        optimiser="bertadam",
        learning_rate=1e-4,
        clip_lr_scale=1e-3,
    ),
}


def _one_process(rank, size, folder):
    join(rank, folder, size)
    torch.set_default_dtype(torch.float64)
    for name, micro in (("plain", None), ("micro", 3)):
        losses, gradients = gradients_of(replace(QUIET, micro_batch=micro))
        gradients["loss"] = losses.total.detach()
        torch.save(gradients, Path(folder) / f"{name}-{rank}.pt")
    torch.set_default_dtype(torch.float32)
    for arithmetic, recipe in RECIPES.items():
        model = toy_model(seed=rank, dropout=0.0)
        fit(model, toy_videos(), recipe, options=QUIET)
        torch.save(weights(model), Path(folder) / f"{arithmetic}-{rank}.pt")
    # The first process alone writes the best model, slowly; all may load it after fit.
    save, slowly = GLSCL.save, lambda *where: (time.sleep(1), save(*where))
    GLSCL.save = slowly
    options = replace(QUIET, folder=Path(folder) / "run")
    validation, recipe = toy_videos(6, name="val"), toy_recipe(epochs=1)
    fit(toy_model(), toy_videos(), recipe, validation, options)
    GLSCL.load(Path(folder) / "run" / "best-000")


@pytest.mark.usefixtures("double")
def test_a_divided_gradient_reaches_the_encoders_and_not_what_comes_after():
    whole, divided = (toy_model(dropout=0.0).double() for _ in range(2))
    divided.gradient_divisor = 4
    batch = next(_Run(whole, toy_videos(), toy_recipe(), None, QUIET)._rest_of_epoch())
    found = []
    for model in (whole, divided):
        text, video = model(
            batch.token_ids, batch.token_mask, batch.content, batch.frame_mask
        )
        model.loss(text, video).total.backward()
        found.append({n: p.grad for n, p in model.named_parameters()})
    for name, gradient in found[0].items():
        if gradient is None:
            continue
        after = name.startswith("lim_") or name.endswith("logit_scale")
        share = 1 if after else 4
        torch.testing.assert_close(share * found[1][name], gradient, msg=name)


@pytest.mark.usefixtures("double")
def test_two_processes_with_half_batches_are_one_with_the_whole(tmp_path, free_port):
    (tmp_path / "port").write_text(str(free_port))
    mp.spawn(_one_process, args=(2, str(tmp_path)), nprocs=2)
    losses, gradients = gradients_of(QUIET)
    for name in ("plain", "micro"):
        for rank in (0, 1):
            found = torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True)
            loss = found.pop("loss")
            torch.testing.assert_close(loss, losses.total.detach(), rtol=0, atol=1e-9)
            assert_same_gradients(found, gradients)
    torch.set_default_dtype(torch.float32)
    for arithmetic, recipe in RECIPES.items():
        one, two = (
            torch.load(tmp_path / f"{arithmetic}-{rank}.pt", weights_only=True)
            for rank in (0, 1)
        )
        assert same(one, two)
        alone = toy_model(dropout=0.0)
        fit(alone, toy_videos(), recipe, options=QUIET)
        for name, value in weights(alone).items():
            assert one[name].dtype == value.dtype
            torch.testing.assert_close(one[name], value, rtol=0.01, atol=1e-3, msg=name)


def test_accumulation_is_the_mean_over_parts_with_losses_of_their_own():
    videos, recipe = toy_videos(), toy_recipe(epochs=1)
    run = _Run(toy_model(dropout=0.0), videos, recipe, None, QUIET)
    batch = next(run._rest_of_epoch())
    expected = sum(
        _Run(toy_model(dropout=0.0), videos, recipe, None, QUIET)
        .backward(part)
        .total.item()
        / 2
        for part in batch.split(4)
    )
    options = replace(QUIET, accumulate=2)
    history = fit(toy_model(dropout=0.0), videos, recipe, options=options)
    assert history.steps[0]["total"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_stays_close_and_finite(precision):
    exact = fit(toy_model(), toy_videos(), toy_recipe(epochs=1), options=QUIET)
    options = replace(QUIET, precision=precision)
    rounded = fit(toy_model(), toy_videos(), toy_recipe(epochs=1), options=options)
    assert rounded.steps[0]["total"] == pytest.approx(exact.steps[0]["total"], abs=0.1)
    assert all(np.isfinite(record["total"]) for record in rounded.steps)


def test_a_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Stopped inside an epoch: weights, records and log are those of one whole run."""

    class StoppedError(Exception):
        pass

    save = RunFolder.save

    def stop(self, state, best_epoch):
        if state["step"] == 5:  # the log has this step already, the checkpoint not
            raise StoppedError
        save(self, state, best_epoch)

    recipe, validation = toy_recipe(epochs=4), toy_videos(6, name="val")
    whole = toy_model()
    expected = fit(whole, toy_videos(), recipe, validation, QUIET)
    options = replace(QUIET, folder=tmp_path, checkpoint_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", stop)
        with pytest.raises(StoppedError):
            fit(toy_model(), toy_videos(), recipe, validation, options)
    assert (tmp_path / "log.jsonl").read_text().count('"total"') == 5
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 4
    resumed = toy_model(seed=9)
    history = fit(resumed, toy_videos(), recipe, validation, options)
    assert same(weights(resumed), weights(whole))
    assert history.best_epoch == expected.best_epoch
    assert [r["total"] for r in history.steps] == [r["total"] for r in expected.steps]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    assert [line["step"] for line in lines if "step" in line] == list(range(1, 9))
    assert [line["epoch"] for line in lines if "validation" in line] == [0, 1, 2, 3]


RUN = """
import sys
sys.path.insert(0, {tests!r})
import torch
from pathlib import Path
from toy import toy_model, toy_recipe, toy_videos
from glscl.train import RunOptions, fit
torch.set_num_threads(1)
options = RunOptions(folder=Path(sys.argv[1]), checkpoint_every=2)
recipe = toy_recipe(epochs=6)
fit(toy_model(), toy_videos(), recipe, toy_videos(6, name="val"), options)
"""


def test_sigkill_at_a_random_step_changes_nothing(tmp_path):
    script = tmp_path / "run.py"
    tests = str(Path(__file__).parents[1])
    script.write_text(textwrap.dedent(RUN.format(tests=tests)))
    command = [sys.executable, str(script)]
    quiet = subprocess.run(
        [*command, str(tmp_path / "whole")],
        check=True,
        capture_output=True,
        env={**os.environ, "TQDM_DISABLE": "1"},
    )
    assert quiet.stderr == quiet.stdout == b""
    victim = int(np.random.default_rng().integers(2, 11))
    killed = tmp_path / "killed"
    process = subprocess.Popen([*command, str(killed)], stderr=subprocess.DEVNULL)
    log = killed / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().count('"total"') >= victim):
        assert time.monotonic() < deadline, "the run wrote no log"
        assert process.poll() is None, f"ended before step {victim} was seen"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    shown = subprocess.run(
        [*command, str(killed)],
        check=True,
        capture_output=True,
        env={name: v for name, v in os.environ.items() if name != "TQDM_DISABLE"},
    )
    assert b"12/12" in shown.stderr
    assert b"pairs/s" in shown.stderr
    whole, resumed = (
        torch.load(folder / "checkpoint.pt", weights_only=True)
        for folder in (tmp_path / "whole", killed)
    )
    assert whole["step"] == resumed["step"] == 12
    assert same(whole["model"], resumed["model"]), f"killed after step {victim}"


def test_checkpoint_of_other_settings_is_refused(tmp_path):
    options = replace(QUIET, folder=tmp_path)
    fit(toy_model(), toy_videos(), toy_recipe(epochs=1), options=options)
    with pytest.raises(ValueError, match="another recipe"):
        fit(toy_model(), toy_videos(), toy_recipe(epochs=2), options=options)
    with pytest.raises(ValueError, match="holds a run already"):
        fit(
            toy_model(),
            toy_videos(),
            toy_recipe(epochs=1),
            options=replace(options, resume=False),
        )


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    options = replace(QUIET, folder=tmp_path)
    first = fit(toy_model(), toy_videos(), toy_recipe(epochs=1), options=options)
    monkeypatch.delattr(_Run, "train_step")
    second = fit(toy_model(), toy_videos(), toy_recipe(epochs=1), options=options)
    assert second.steps == first.steps


def test_features_that_are_not_numbers_stop_the_run_by_name():
    videos = toy_videos()
    videos.features.frames[5, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"Step [12]: .*frames.*train5\b"):
        fit(toy_model(), videos, toy_recipe(), options=QUIET)


class Looks(TorchDispatchMode):
    """Counts how often a value is read by Python, which on a GPU waits for it."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


# GLCCL leaves out the padded words of its batch, so it asks for their number.
@pytest.mark.parametrize(
    ("method", "allowed"), [("glscl", 0), ("eercf", 0), ("glccl", 1)]
)
@pytest.mark.parametrize("micro", [None, 3])
def test_a_step_reads_no_value_before_its_end(method, allowed, micro, monkeypatch):
    looks = Looks()
    patches = 3 if method == "eercf" else 0
    model = toy_model() if method == "glscl" else toy_related(method)
    recipe = toy_recipe(optimiser="bertadam", epochs=1)
    before, at_the_end = _Run.backward, _Run._look

    def start(*arguments):  # what comes earlier is of the batch on the CPU
        looks.__enter__()
        return before(*arguments)

    def stop(*arguments):
        looks.__exit__(None, None, None)
        return at_the_end(*arguments)

    monkeypatch.setattr(_Run, "backward", start)
    monkeypatch.setattr(_Run, "_look", stop)
    options = replace(QUIET, micro_batch=micro)
    fit(model, toy_videos(8, 1, patches=patches), recipe, options=options)
    assert looks.count == allowed
    with looks:
        assert bool(torch.ones(1))
    assert looks.count == allowed + 1


def test_a_step_that_overflows_is_logged_without_a_number(tmp_path):
    folder = RunFolder(tmp_path, {}, {})
    folder.start_log([{"step": 1, "gradient_norm": float("inf")}], tensorboard=False)
    folder.log({"step": 2, "gradient_norm": float("nan")}, 2)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == [
        {"step": 1, "gradient_norm": None},
        {"step": 2, "gradient_norm": None},
    ]


def test_impossible_batches_and_options_are_refused():
    with pytest.raises(ValueError, match="cannot be cut into 3 equal parts"):
        fit(
            toy_model(),
            toy_videos(),
            toy_recipe(),
            options=replace(QUIET, accumulate=3),
        )
    with pytest.raises(ValueError, match=r"precision must be .*, got 'fp8'"):
        RunOptions(precision="fp8")
    with pytest.raises(ValueError, match="select_on must be"):
        toy_recipe(select_on="dev")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="finds no CUDA device"):
            RunOptions(device="cuda:0")
    with pytest.raises(ValueError, match=r"micro_batch must be .* of at least 1"):
        RunOptions(micro_batch=0)
    with pytest.raises(ValueError, match="needs a folder"):
        RunOptions(tensorboard=True)


def test_tensorboard_gets_every_number_or_says_that_it_is_missing(
    tmp_path, monkeypatch
):
    written = []

    class Writer:
        def __init__(self, folder):
            assert folder == tmp_path / "tensorboard"

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def close(self):
            written.append("closed")

    options = replace(QUIET, folder=tmp_path, tensorboard=True)
    recipe, validation = toy_recipe(epochs=1), toy_videos(4, name="val")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RuntimeError, match="TensorBoard is not installed"):
        fit(toy_model(), toy_videos(), recipe, validation, options)
    fake = types.SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    fit(toy_model(), toy_videos(), recipe, validation, options)
    assert ("info_nce", 1) in written
    assert ("validation/t2v/R1", 2) in written
    assert written[-1] == "closed"


def test_epoch_orders_cover_the_split_and_differ():
    split = toy_split(10, 3)
    over_captions = toy_recipe(epoch_over="captions")
    assert sorted(epoch_order(split, over_captions, 0)) == list(range(30))
    over_videos = toy_recipe(epoch_over="videos")
    orders = [epoch_order(split, over_videos, epoch) for epoch in range(4)]
    for order in orders:
        own = [split.captions[caption].video for caption in order]
        assert sorted(own) == list(range(10))
    assert orders[0] != orders[1]
    assert orders[0] == epoch_order(split, over_videos, 0)
    assert len({caption for order in orders for caption in order}) > 10


def test_groups_of_videos_stay_together_in_an_order_that_changes():
    split, recipe = toy_split(10, 3), toy_recipe(epoch_over="videos", group_size=4)
    orders = [
        [split.captions[caption].video for caption in epoch_order(split, recipe, epoch)]
        for epoch in range(4)
    ]
    groups = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    for order in orders:
        assert sorted(order) == list(range(10))
        firsts = [video for video in order if video % 4 == 0]
        assert order == [video for first in firsts for video in groups[first // 4]]
    assert len({tuple(order) for order in orders}) > 1


def test_groups_that_cannot_be_kept_together_are_refused():
    over_captions = toy_recipe(epoch_over="captions", group_size=2)
    with pytest.raises(ValueError, match="epoch_over = 'videos'"):
        epoch_order(toy_split(), over_captions, 0)
    torn = toy_recipe(epoch_over="videos", group_size=3)
    with pytest.raises(ValueError, match="divide the batch of 8, got 3"):
        epoch_order(toy_split(), torn, 0)


def test_features_of_another_split_are_refused():
    with pytest.raises(ValueError, match="axis 0"):
        CachedVideos(toy_split(3), toy_videos(4).features)


def _spec():
    return FrameSpec(4, 8.0, 64, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


def test_augmentation_is_one_operation_per_video_and_follows_the_seed():
    frame = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    clip = np.stack([frame] * 3)
    augment = rand_augment("rand-m7-n4-mstd0.5-inc1")
    results = [augment(clip, seed) for seed in (1, 1, 2)]
    assert results[0].shape == clip.shape
    assert results[0].dtype == np.uint8
    assert (results[0] == results[0][0]).all()
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0], clip)


def test_frames_are_augmented_as_decoded_or_as_resized(ramp_video):
    seen = []

    def augment(frames, seed):
        seen.append(frames.shape)
        return 255 - frames

    (video,) = toy_split(1).videos
    split = Split("train", (replace(video, path=ramp_video),), toy_split(1).captions)
    plain = VideoDataset(split, _spec()).load(0, 0).pixels
    white = (1 - torch.tensor(_spec().mean)) / torch.tensor(_spec().std)
    black = -torch.tensor(_spec().mean) / torch.tensor(_spec().std)
    for where, side in (("decoded", (48, 64)), ("resized", (64, 64))):
        loaded = VideoDataset(split, _spec(), None, augment, where).load(0, 0).pixels
        assert seen[-1][1:3] == side
        mirrored = (white + black).view(1, 3, 1, 1) - plain
        torch.testing.assert_close(loaded, mirrored, rtol=0, atol=0.03)


def test_broken_videos_stop_training_by_name(tmp_path):
    split = toy_split(8)
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    broken = replace(split.videos[0], path=tmp_path / "broken.mp4")
    videos = VideoDataset(
        Split("train", (broken, *split.videos[1:]), split.captions), _spec()
    )
    with pytest.raises(VideoError):
        videos.load(0, 0)
