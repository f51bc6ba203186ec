"""CLIP's matrices in float16 without a copy: the same run however it is carried out."""

from dataclasses import replace

import pytest
import torch
from toy import toy_model, toy_recipe, toy_videos, weights

from glscl.model import GLSCL
from glscl.optim import BertAdam
from glscl.train import RunOptions, fit

QUIET = RunOptions(progress=False)
HALVES = ("attn.in_proj_", "attn.out_proj.", "mlp.c_", "text_projection", "visual.proj")


def recipe(**changes):
    """The published optimiser, rates and schedule, on the toy split."""
    published = {
        "optimiser": "bertadam",
        "learning_rate": 1e-4,
        "clip_lr_scale": 1e-3,
        "schedule": "released",
        "clip_arithmetic": "released",
    }
    return toy_recipe(**{**published, **changes})


def test_matrices_of_clip_alone_become_float16_and_stay_so():
    model = toy_model()
    fit(model, toy_videos(), recipe(epochs=1), options=QUIET)
    for name, parameter in model.named_parameters():
        of_clip = name.startswith("backbone.")
        half = of_clip and any(part in name for part in (*HALVES, "conv1"))
        assert (parameter.dtype == torch.float16) == half, name
        if parameter.grad is not None:
            assert parameter.grad.dtype == parameter.dtype, name


@pytest.mark.parametrize("computes", [(), ("cpu",)])
def test_features_are_float32_and_those_of_the_rounded_weights(computes, monkeypatch):
    """As on a CPU, and as on CUDA, where CLIP itself computes in float16."""
    monkeypatch.setattr("glscl.backbone._COMPUTE_HALF", computes)
    plain, halved = toy_model(), toy_model()
    halved.backbone.convert_weights()
    for parameter, rounded in zip(plain.parameters(), halved.parameters(), strict=True):
        parameter.data = rounded.data.float()
    ids, mask = plain.backbone.tokenize(["a red circle", "a star"], 8)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for expected, found in zip(
        (*plain.backbone.encode_text(ids, mask), plain.backbone.encode_image(pixels)),
        (*halved.backbone.encode_text(ids, mask), halved.backbone.encode_image(pixels)),
        strict=True,
    ):
        assert found.dtype == torch.float32
        error = (found - expected).norm() / expected.norm()
        assert error < 5e-3 if computes else error == 0


def test_bertadam_of_float16_loses_the_squares_of_small_gradients():
    """0.02 g² is below half of float16's smallest number where |g| < 1.2e-3: v stays 0,
    and the step is momentum of length lr / 1e-6."""
    parameter = torch.nn.Parameter(torch.zeros(50, dtype=torch.float16))
    optimiser = BertAdam([parameter], lr=1e-7, weight_decay=0.0)
    parameter.grad = torch.full_like(parameter, 1e-3)
    parameter.grad[25:] = 2e-3
    optimiser.step()
    state = optimiser.state[parameter]
    assert state["m"].dtype == state["v"].dtype == torch.float16
    assert not state["v"][:25].any()
    assert (state["v"][25:] > 0).all()
    momentum = -1e-7 / 1e-6 * 0.1 * 1e-3
    assert parameter[:25].tolist() == pytest.approx([momentum] * 25, rel=0.05)
    assert (parameter[25:].abs() < parameter[:25].abs() / 10).all()


def test_clip_moves_much_further_than_with_float32():
    """At the published rates, where float16 turns the optimiser into momentum SGD."""
    lengths = {}
    for arithmetic in ("float32", "released"):
        model = toy_model()
        model.backbone.convert_weights()
        before = weights(model)
        if arithmetic == "float32":
            model.float()
        chosen = recipe(epochs=4, clip_arithmetic=arithmetic)
        fit(model, toy_videos(), chosen, options=QUIET)
        name = "backbone.clip.text_projection"
        moved = weights(model)[name].double() - before[name].double()
        lengths[arithmetic] = moved.norm().item()
    assert lengths["released"] > 5 * lengths["float32"] > 0


class StoppedError(Exception):
    """Raised by a test to end a run."""


def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path):
    def stop(record):
        if record["step"] == 3:
            raise StoppedError

    whole, resumed = toy_model(), toy_model(seed=9)
    validation = toy_videos(6, name="val")
    fit(whole, toy_videos(), recipe(), validation, QUIET)
    options = replace(QUIET, folder=tmp_path, checkpoint_every=1)
    with pytest.raises(StoppedError):
        fit(toy_model(), toy_videos(), recipe(), validation, options, stop)
    history = fit(resumed, toy_videos(), recipe(), validation, options)
    found, expected = weights(resumed), weights(whole)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name
    saved = GLSCL.load(tmp_path / f"best-{history.best_epoch:03d}")
    assert torch.equal(
        saved.backbone.clip.text_projection, resumed.backbone.clip.text_projection
    )
    with pytest.raises(ValueError, match="another recipe"):
        fit(
            toy_model(), toy_videos(), toy_recipe(optimiser="bertadam"), options=options
        )


@pytest.mark.parametrize("changes", [{"micro_batch": 3}, {"precision": "bf16"}])
def test_parts_of_a_batch_and_autocast_of_the_rest_stay_close(changes):
    plain, other = toy_model(dropout=0.0), toy_model(dropout=0.0)
    expected = fit(plain, toy_videos(), recipe(), options=QUIET)
    found = fit(other, toy_videos(), recipe(), options=replace(QUIET, **changes))
    tolerance = 2e-3 if "micro_batch" in changes else 0.1
    for a, b in zip(expected.steps, found.steps, strict=True):
        assert b["total"] == pytest.approx(a["total"], abs=tolerance)
    assert other.backbone.clip.text_projection.dtype == torch.float16


@pytest.mark.parametrize(
    ("chosen", "options"),
    [(recipe(), {"precision": "fp16"}), (recipe(optimiser="adamw"), {})],
)
def test_loss_scaling_and_an_eps_below_float16_are_refused(chosen, options):
    with pytest.raises(ValueError, match="needs optimiser='bertadam'"):
        fit(toy_model(), toy_videos(), chosen, options=replace(QUIET, **options))
