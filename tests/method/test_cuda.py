"""On CUDA the package computes what it computes on a CPU; skipped without CUDA."""

from dataclasses import replace

import pytest
import torch
from test_heads import tiny_head
from tiny_model import text_batch, tiny_model, video_batch
from torch.testing import assert_close
from toy import toy_model, toy_recipe, toy_related, toy_videos, weights

from glscl.evaluate import evaluate
from glscl.gim import global_similarity
from glscl.runs import METHODS, load_model
from glscl.train import RunOptions, fit

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device"
)
CPU = RunOptions(progress=False)


@pytest.fixture
def options():
    return replace(CPU, device="cuda")


def tiny(method):
    return tiny_model() if method == "glscl" else tiny_head(method)


def toy(method, **changes):
    if method == "glscl":
        return toy_model(dropout=0.0, **changes)
    # Dropout draws from the generator of the device.
    own = {"dropout": 0.0} if method == "xpool" else {}
    return toy_related(method, **own, **changes)


def losses(records):
    return [record["total"] for record in records]


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_scores_of_every_method(method):
    batch = (*text_batch(), *video_batch())
    model = tiny(method)
    expected = model.similarity(*model(*batch))
    model.cuda()
    found = model.similarity(*model(*(x.cuda() for x in batch)))
    assert found.is_cuda
    assert_close(found.cpu(), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_forms_of_gim(dtype):
    generator = torch.Generator().manual_seed(0)
    captions, frames = (
        torch.randn(*shape, generator=generator, dtype=dtype).cuda()
        for shape in ((37, 48), (53, 7, 48))
    )
    real = 1 + torch.arange(53) % 7
    mask = (torch.arange(7) < real[:, None]).cuda()
    with torch.no_grad():
        found, direct = (
            global_similarity(captions, frames, mask, method=form)
            for form in ("gram", "direct")
        )
    assert_close(found, direct, rtol=0, atol=1e-12 if dtype.itemsize == 8 else 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_training_of_every_method(method, options):
    """The losses of the first steps, before rounding is amplified."""
    recipe = toy_recipe(epochs=1)
    videos = toy_videos(patches=4 if method == "eercf" else 0)
    found = [
        losses(fit(toy(method), videos, recipe, options=where).steps)
        for where in (CPU, options)
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("arithmetic", ["float32", "released"])
def test_training_in_half_precision(precision, arithmetic, options):
    if precision == "fp16" and arithmetic == "released":
        pytest.skip("the released arithmetic is not for a gradient scaler")
    recipe = toy_recipe(optimiser="bertadam", clip_arithmetic=arithmetic)
    model = toy("glscl")
    start = weights(model)
    history = fit(
        model, toy_videos(), recipe, options=replace(options, precision=precision)
    )
    exact = fit(toy("glscl"), toy_videos(), recipe, options=CPU)
    assert losses(history.steps)[0] == pytest.approx(losses(exact.steps)[0], rel=2e-2)
    end = {name: x.cpu() for name, x in weights(model).items()}
    # Released weights are float16 from the start on: rounding them is no movement.
    moved = [n for n, x in end.items() if not torch.equal(x, start[n].to(x.dtype))]
    assert len(moved) > 10


def test_a_batch_in_parts_has_the_same_gradient(options):
    recipe = toy_recipe(epochs=1)
    whole, parts = (
        fit(toy("glscl"), toy_videos(), recipe, options=how).steps
        for how in (options, replace(options, micro_batch=3))
    )
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)
    norms = [[record["gradient_norm"] for record in run] for run in (parts, whole)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_a_stopped_run_goes_on(tmp_path, options):
    recipe, validation = toy_recipe(), toy_videos(6, 1, "val")
    whole = fit(toy("glscl"), toy_videos(), recipe, validation, options)
    options = replace(options, folder=tmp_path, checkpoint_every=1)

    def stop(record):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(record)

    seen = []
    with pytest.raises(KeyboardInterrupt):
        fit(toy("glscl"), toy_videos(), recipe, validation, options, stop)
    resumed = fit(toy("glscl", seed=9), toy_videos(), recipe, validation, options)
    assert losses(resumed.steps) == pytest.approx(losses(whole.steps), rel=1e-4)


def test_evaluation_and_a_saved_model(tmp_path):
    model, videos = toy("glscl"), toy_videos(19, 2, "test")
    expected = evaluate(model, videos, batch_size=5)
    found = evaluate(model, videos, batch_size=5, device="cuda")
    assert not found.similarity.is_cuda
    assert_close(found.similarity, expected.similarity, rtol=0, atol=1e-5)
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    again = evaluate(loaded, videos, batch_size=7)
    assert_close(again.similarity, expected.similarity, rtol=0, atol=1e-5)
