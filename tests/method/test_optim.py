"""Optimiser, schedule and groups against plain versions."""

import copy
import math

import pytest
import torch
from toy import toy_model, toy_recipe

from glscl.config import get_preset
from glscl.optim import (
    BertAdam,
    cosine_multiplier,
    freeze,
    make_optimiser,
    parameter_groups,
    released_multiplier,
    set_learning_rates,
)


def plain_bertadam(p, gradients, lr, b1=0.9, b2=0.98, eps=1e-6, decay=0.2, limit=1.0):
    """The update number by number, on a list of floats."""
    m, v = [0.0] * len(p), [0.0] * len(p)
    for step, gradient in enumerate(gradients):
        norm = math.sqrt(sum(g * g for g in gradient))
        factor = min(1.0, limit / (norm + 1e-6))
        for i, raw in enumerate(gradient):
            g = raw * factor
            m[i] = b1 * m[i] + (1 - b1) * g
            v[i] = b2 * v[i] + (1 - b2) * g * g
            update = m[i] / (math.sqrt(v[i]) + eps) + decay * p[i]
            p[i] = p[i] - lr[step] * update
    return p


def test_bertadam_equals_a_plain_float64_loop():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(7, generator=generator, dtype=torch.float64)
    # Short and long gradients, so that the clipping acts on some steps only.
    gradients = [
        torch.randn(7, generator=generator, dtype=torch.float64) * size
        for size in (0.01, 3.0, 0.2, 50.0, 0.001, 1.0)
    ]
    rates = [1e-2 * released_multiplier(step, 5) for step in range(6)]
    parameter = torch.nn.Parameter(start.clone())
    optimiser = BertAdam([parameter], lr=1.0)
    for gradient, rate in zip(gradients, rates, strict=True):
        optimiser.param_groups[0]["lr"] = rate
        parameter.grad = gradient.clone()
        optimiser.step()
    expected = plain_bertadam(start.tolist(), [g.tolist() for g in gradients], rates)
    torch.testing.assert_close(
        parameter.detach(),
        torch.tensor(expected, dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )


def one_by_one(p, m, v, lr, decay, b1=0.9, b2=0.98, eps=1e-6, limit=1.0):
    """The update of one tensor in its own arithmetic, operation by operation."""
    norm = torch.linalg.vector_norm(p.grad)
    g = p.grad * (limit / (norm + 1e-6)).clamp(max=1.0)
    m.mul_(b1).add_(g, alpha=1 - b1)
    v.mul_(b2).addcmul_(g, g, value=1 - b2)
    p.sub_(lr * (m / (v.sqrt() + eps) + decay * p))


@torch.no_grad()
@pytest.mark.parametrize("at_once", [1, 40, 2**24])
def test_bertadam_of_many_tensors_has_the_bits_of_one_by_one(at_once, monkeypatch):
    monkeypatch.setattr("glscl.optim.AT_ONCE", {"cpu": at_once})
    generator = torch.Generator().manual_seed(0)
    shapes = [(7, 5), (), (3,), (64, 33), (1, 2, 3)]
    kinds = [torch.float32, torch.float16, torch.float32, torch.float16, torch.float64]
    many, single = (
        [torch.ones(s, dtype=d) for s, d in zip(shapes, kinds, strict=True)]
        for _ in range(2)
    )
    groups = [
        {"params": many[:2], "lr": 1e-3, "weight_decay": 0.0},
        {"params": many[2:], "lr": 1e-2, "weight_decay": 0.2},
    ]
    optimiser = BertAdam(groups, lr=1.0)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in single]
    for size in (1e-4, 3.0, 0.1):
        for i, (a, b) in enumerate(zip(many, single, strict=True)):
            drawn = size * torch.randn(shapes[i], generator=generator)
            a.grad = b.grad = drawn.to(a.dtype)
            one_by_one(b, *moments[i], *((1e-3, 0.0) if i < 2 else (1e-2, 0.2)))
        optimiser.step()
    for a, b in zip(many, single, strict=True):
        assert torch.equal(a, b)


def test_bertadam_leaves_the_gradient_and_parameters_without_one():
    used, unused = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    used.grad = torch.full((3,), 9.0)
    BertAdam([used, unused], lr=0.1).step()
    assert used.grad.tolist() == [9.0] * 3
    assert unused.tolist() == [1.0] * 3
    assert (used < 1).all()


def test_bertadam_goes_on_from_its_state_dict():
    def run(steps, optimiser, parameter):
        for i in range(steps):
            parameter.grad = torch.full((2,), 0.1 * (i + 1))
            optimiser.step()

    a = torch.nn.Parameter(torch.ones(2))
    first = BertAdam([a], lr=0.1)
    run(3, first, a)
    b = torch.nn.Parameter(a.detach().clone())
    second = BertAdam([b], lr=0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(2, first, a)
    run(2, second, b)
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    "wrong", [{"lr": -1.0}, {"lr": 0.1, "betas": (0.9, 1.0)}, {"lr": 0.1, "eps": -1.0}]
)
def test_bertadam_refuses_impossible_settings(wrong):
    with pytest.raises(ValueError, match="must"):
        BertAdam([torch.nn.Parameter(torch.ones(1))], **wrong)


def test_released_schedule_drops_after_the_warmup_and_rises_past_the_end():
    assert released_multiplier(0, 100) == 0
    assert released_multiplier(5, 100) == pytest.approx(0.5)
    assert released_multiplier(10, 100) == pytest.approx(0.975528, abs=1e-6)
    assert released_multiplier(100, 100) == pytest.approx(0, abs=1e-12)
    # Ten epochs on the five-epoch schedule: the second half climbs back to 1.
    rising = [released_multiplier(step, 100) for step in range(100, 201)]
    assert rising == sorted(rising)
    assert rising[-1] == pytest.approx(1)


def test_cosine_schedule_starts_at_once_peaks_at_one_and_ends_at_zero():
    values = [cosine_multiplier(step, 50) for step in range(60)]
    assert 0 < values[0] < values[4] == 1
    assert values[5] == 1
    assert values[5:50] == sorted(values[5:50], reverse=True)
    assert values[49] > 0
    assert values[50:] == [0.0] * 10
    assert cosine_multiplier(0, 1) == 1


def test_groups_follow_the_released_decay_rule():
    model = toy_model()
    freeze(model, "conv1")
    config = get_preset("msrvtt").train
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen = {}
    for group in parameter_groups(model, config):
        for parameter in group["params"]:
            seen[names[id(parameter)]] = group
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert seen.keys() == trainable
    assert not any("visual.conv1" in name for name in seen)
    for name, group in seen.items():
        clip = name.startswith("backbone.")
        assert group["lr"] == pytest.approx(1e-7 if clip else 1e-4)
        assert group["weight_decay"] == (0 if "bias" in name else 0.2)
    # The oddities of the rule: norms, embeddings, queries and κ are decayed.
    for name in (
        "backbone.clip.ln_final.weight",
        "backbone.clip.token_embedding.weight",
        "backbone.clip.logit_scale",
        "lim_video.queries",
        "lim_video.decoder.layers.0.norm1.weight",
    ):
        assert seen[name]["weight_decay"] == 0.2


def test_matrices_rule_spares_what_is_not_a_matrix_product():
    model = toy_model()
    config = toy_recipe(decay="matrices", weight_decay=0.2)
    decayed = {
        id(parameter)
        for group in parameter_groups(model, config)
        for parameter in group["params"]
        if group["weight_decay"]
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        table = any(word in name for word in ("embedding", "positions", "queries"))
        assert (id(parameter) in decayed) == (parameter.ndim == 2 and not table), name


def test_frozen_visual_tower_is_in_no_group():
    model = toy_model()
    freeze(model, "visual")
    grouped = {
        id(p) for g in parameter_groups(model, toy_recipe()) for p in g["params"]
    }
    for name, parameter in model.named_parameters():
        assert (id(parameter) in grouped) != name.startswith("backbone.clip.visual.")
    with pytest.raises(ValueError, match="Cannot freeze 'everything'"):
        freeze(model, "everything")


def test_rates_are_shares_of_each_groups_peak():
    optimiser = make_optimiser(toy_model(), toy_recipe(optimiser="bertadam"))
    set_learning_rates(optimiser, 0.5)
    set_learning_rates(optimiser, 0.25)
    rates = {group["name"]: group["lr"] for group in optimiser.param_groups}
    assert rates["new"] == pytest.approx(2.5e-4)
    assert rates["clip"] == pytest.approx(2.5e-5)
    with pytest.raises(ValueError, match=r"optimiser must be .*, got 'sgd'"):
        make_optimiser(toy_model(), toy_recipe(optimiser="sgd"))
