"""EERCF: equal to plain loops, gates of a caption's video without gradient, two stages."""

import numpy as np
import pytest
import reference
import torch
from tiny_model import TINY, text_batch, video_batch
from torch.nn.functional import normalize
from torch.testing import assert_close

from glscl.backbone import Backbone
from glscl.config import EERCFConfig
from glscl.eercf import EERCF, EERCFText, EERCFVideo, gated, gates
from glscl.metrics import chance, retrieval_metrics

CASES = [(5, 4, 3), (1, 4, 3), (5, 1, 3), (2, 3, 1)]


def tiny_model(**changes):
    """EERCF over a CLIP of toy size, random, float64, nothing at its neutral start."""
    torch.manual_seed(0)
    settings = {"backbone": "tiny", "pretrained": None, "temporal_layers": 2}
    config = EERCFConfig(**{**settings, "max_frames": 3, **changes})
    model = EERCF(Backbone("tiny", TINY), config).double()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def encoded(model, A=5, B=4, F=3):
    with torch.no_grad():
        return (
            model.encode_text(*text_batch(A)),
            model.encode_video(*video_batch(B, F)),
        )


def random_items(A, B, F, P, D=16, seed=0, dtype=torch.float64):
    """Unit features with nothing in common, the last frames of some videos padding.

    The map of the coarse score is the identity.
    """
    generator = torch.Generator().manual_seed(seed)

    def rows(*shape):
        x = torch.randn(*shape, D, generator=generator, dtype=torch.float64)
        return normalize(x, dim=-1).to(dtype)

    mask = torch.arange(F) < torch.randint(1, F + 1, (B, 1), generator=generator)
    video = EERCFVideo(rows(B), rows(B, F), rows(B, F), mask, rows(B, F * P))
    t = rows(A)
    return EERCFText(t, t), video


def loops(model, text, video):
    """All four levels of every pair, (4, A, B), and the inputs of the loops."""
    masked = model.config.mask_padding
    P = video.patches.shape[1] // video.mask.shape[1]
    real = [np.flatnonzero(row) if masked else range(len(row)) for row in video.mask]
    real_patches = [[P * f + i for f in rows for i in range(P)] for rows in real]
    M, F = model.video_map.detach().numpy(), video.mask.shape[1]
    W = model.frame_mix.detach().numpy()[:F, :F]
    t = text.captions.numpy()
    V, u, f, p = (
        x.numpy()
        for x in (video.videos, video.frames, video.clip_frames, video.patches)
    )
    found = [
        [
            list(
                reference.eercf_levels(
                    t[a], V[b], u[b], f[b], p[b], real[b], real_patches[b], M, W
                ).values()
            )
            for b in range(len(V))
        ]
        for a in range(len(t))
    ]
    parts = (t, V, u, f, p, real, real_patches, M, W)
    return torch.tensor(found).permute(2, 0, 1), parts


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize(("A", "B", "F"), CASES)
def test_every_score_equals_the_loops(mask_padding, A, B, F, record_property):
    model = tiny_model(mask_padding=mask_padding, max_frames=F)
    text, video = encoded(model, A, B, F)
    expected, _ = loops(model, text, video)
    with torch.no_grad():
        levels = model.levels(text, video)
        found = torch.stack(list(levels))
        scores = model.similarity(text, video)
    error = (found - expected).abs().max().item()
    record_property("largest error", error)
    print(f"largest error {error:.1e}")
    assert error <= 1e-10
    weights = torch.tensor([0.5, 0.8, 0.2, 0.2], dtype=torch.float64)
    total = torch.einsum("s,sab->ab", weights, expected)
    assert_close(scores, total, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mask_padding", [True, False])
def test_the_loss_equals_the_loops(mask_padding):
    model = tiny_model(mask_padding=mask_padding, pearson_weight=0.3)
    text, video = encoded(model, 4, 4)
    _, parts = loops(model, text, video)
    expected = reference.eercf_loss(*parts, model.kappa.item(), 0.3)
    losses = model.loss(text, video)
    error = abs(losses.total.item() - expected)
    print(f"largest error {error:.1e}")
    assert error <= 1e-10
    assert_close(losses.total, sum(losses[1:]))
    none = tiny_model(mask_padding=mask_padding, pearson_weight=0.0)
    assert none.loss(text, video).pearson == 0


def test_the_video_vector_is_the_mean_of_the_unit_frames():
    model = tiny_model()
    _, video = encoded(model)
    for b, mask in enumerate(video.mask):
        mean = video.frames[b][mask].mean(dim=0)
        assert_close(video.videos[b], mean / mean.norm())


@pytest.mark.parametrize("patches", [True, False])
def test_padding_does_not_matter_when_it_is_masked_and_does_as_released(patches):
    pixels, mask = video_batch(4, 3)
    noise = torch.randn(4, 2, 3, 16, 16, dtype=torch.float64)
    longer = (
        torch.cat([pixels, noise], dim=1),
        torch.nn.functional.pad(mask, (0, 2)),
    )
    for masked in (True, False):
        model = tiny_model(max_frames=5, mask_padding=masked, patches=patches)
        with torch.no_grad():
            text = model.encode_text(*text_batch())
            zeros = torch.zeros_like(noise)
            other = (torch.cat([pixels, zeros], dim=1), longer[1])
            one, two = (
                model.similarity(text, model.encode_video(*videos))
                for videos in (longer, other)
            )
        same = torch.allclose(one, two, rtol=0, atol=1e-12)
        assert same == masked
    model = tiny_model(max_frames=5, patches=patches)
    with torch.no_grad():
        text = model.encode_text(*text_batch())
        short = model.similarity(text, model.encode_video(pixels, mask))
        long = model.similarity(text, model.encode_video(*longer))
    assert_close(short, long, rtol=0, atol=1e-12)


def test_a_gate_in_training_is_of_the_own_caption_and_has_no_gradient():
    model = tiny_model(pearson_weight=0.0)
    text, video = encoded(model, 4, 4)
    f = video.clip_frames.clone().requires_grad_()
    losses = model.loss(text, video._replace(clip_frames=f))
    (through_strong,) = torch.autograd.grad(
        losses.strong, f, allow_unused=True, retain_graph=True
    )
    assert through_strong is None
    (through_weak,) = torch.autograd.grad(losses.weak, f)
    assert through_weak.abs().max() > 0
    x = torch.einsum("ad,bfd->abf", text.captions, video.clip_frames)
    per_pair = gated(gates(x, video.mask, 0.1), video.frames)
    caption_to_video = x.diagonal(dim1=0, dim2=1).T
    assert_close(
        gated(gates(caption_to_video, video.mask, 0.1), video.frames),
        per_pair[torch.arange(4), torch.arange(4)],
    )


def test_gradients_are_finite_and_reach_everything_that_is_trained():
    model = tiny_model()
    text = model.encode_text(*text_batch(4))
    losses = model.loss(text, model.encode_video(*video_batch(4)))
    losses.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model.video_map.grad.abs().max() > 0
    assert model.frame_mix.grad.abs().max() > 0


@pytest.mark.parametrize("recall", ["videos of captions", "captions of videos"])
def test_two_stages_rerank_the_recalled_and_leave_the_rest(recall):
    text, video = random_items(9, 7, 4, 3)
    model = tiny_model(max_frames=4)
    with torch.no_grad():
        dense, coarse = model.similarity(text, video), model.coarse(text, video)
        found = model.two_stage(text, video, 3, recall)
        everything = model.two_stage(text, video, 100, recall)
    assert_close(everything, dense)
    if recall == "captions of videos":
        dense, coarse, found = dense.T, coarse.T, found.T
    for full, rough, both in zip(dense, coarse, found, strict=True):
        order = rough.argsort(descending=True)
        best, rest = order[:3], order[3:]
        assert (both[best].diff() - full[best].diff()).abs().max() < 1e-12
        assert torch.equal(both[rest], rough[rest])
        assert both[best].min() > both[rest].max()


def test_two_stages_score_recalled_pairs_alone(monkeypatch):
    text, video = random_items(9, 7, 4, 3)
    model = tiny_model(max_frames=4)
    scored = []
    levels = EERCF.levels

    def counted(self, text, video):
        scored.append(len(text.captions) * len(video.frames))
        return levels(self, text, video)

    monkeypatch.setattr(EERCF, "levels", counted)
    model.two_stage(text, video, 2)
    assert sum(scored) == 9 * 2


@pytest.mark.parametrize("patches", [0, 3])
def test_random_captions_score_at_chance(patches):
    text, video = random_items(600, 40, 4, max(1, patches), dtype=torch.float32)
    if not patches:
        video = video._replace(patches=None)
    model = tiny_model(max_frames=4, patches=bool(patches)).float()
    owners = torch.arange(600) % 40
    with torch.no_grad():
        for scores in (model.similarity(text, video), model.two_stage(text, video, 10)):
            found = retrieval_metrics(scores, caption_to_video=owners)["t2v"]
            for k in (1, 5, 10):
                share = chance(40, k) / 100
                allowed = 500 * (share * (1 - share) / 600) ** 0.5
                assert abs(found[f"R{k}"] - 100 * share) < allowed


def test_chunks_do_not_matter(monkeypatch):
    text, video = random_items(5, 7, 4, 3)
    model = tiny_model(max_frames=4)
    with torch.no_grad():
        whole = model.similarity(text, video)
        monkeypatch.setattr(EERCF, "chunk_elements", 200)
        assert_close(model.similarity(text, video), whole)


def test_bad_input_is_named():
    model = tiny_model(mask_padding=False)
    text, video = encoded(model)
    with pytest.raises(ValueError, match="must have 3 frames, the size of the mixing"):
        model.similarity(text, encoded(model, F=2)[1])
    with pytest.raises(ValueError, match="shortlist must be at least 1, got 0"):
        model.two_stage(text, video, 0)
    with pytest.raises(ValueError, match="recall must be 'videos of captions'"):
        model.two_stage(text, video, 2, "both")
    broken = video._replace(frames=video.frames.clone())
    broken.frames[2] = float("nan")
    with pytest.raises(ValueError, match="frames: row 2 has NaN"):
        model.similarity(text, broken)
