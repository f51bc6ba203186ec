"""GLCCL: four scores equal to plain loops, folded and direct, masks, gradients."""

import numpy as np
import pytest
import reference
import torch
from tiny_model import TINY, text_batch, video_batch
from torch.nn.functional import pad
from torch.testing import assert_close

from glscl.backbone import Backbone
from glscl.config import GLCCLConfig
from glscl.gim import frame_weights, global_similarity
from glscl.glccl import GLCCL, glim_weights
from glscl.metrics import chance, retrieval_metrics
from glscl.retriever import TextFeatures, VideoFeatures

CASES = [(5, 4, 3), (1, 4, 3), (5, 1, 3), (2, 3, 1)]


def tiny_model(**changes):
    """GLCCL over a CLIP of toy size, random, float64, nothing at its neutral start."""
    torch.manual_seed(0)
    settings = {"backbone": "tiny", "pretrained": None, "temporal_layers": 2}
    config = GLCCLConfig(**{**settings, "max_words": 7, "temperature": 2.0, **changes})
    model = GLCCL(Backbone("tiny", TINY), config).double()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def encoded(model, A=5, B=4, F=3):
    with torch.no_grad():
        return (
            model.encode_text(*text_batch(A)),
            model.encode_video(*video_batch(B, F)),
        )


def loops(model, text, video):
    """The four levels of every pair: (4, A, B)."""

    def real(mask):
        masked = model.config.mask_padding
        return np.flatnonzero(mask) if masked else list(range(len(mask)))

    maps = [model.sentence_map.detach().numpy(), model.word_map.detach().numpy()]
    L = text.mask.shape[1]
    mixes = [W.detach().numpy()[:L, :L] for W in model.mixes]
    found = [
        [
            reference.glccl_levels(
                text.captions[a].numpy(),
                text.tokens[a].numpy(),
                video.frames[b].numpy(),
                real(text.mask[a]),
                real(video.mask[b]),
                maps,
                mixes,
                model.config.temperature,
            )
            for b in range(len(video.frames))
        ]
        for a in range(len(text.captions))
    ]
    return torch.tensor(found).permute(2, 0, 1)


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("method", ["folded", "direct"])
@pytest.mark.parametrize(("A", "B", "F"), CASES)
def test_every_score_equals_the_loops(mask_padding, method, A, B, F):
    model = tiny_model(mask_padding=mask_padding)
    text, video = encoded(model, A, B, F)
    with torch.no_grad():
        found = model.level_scores(text, video, method)
        mean = model.similarity(text, video)
    expected = loops(model, text, video)
    error = (found - expected).abs().max().item()
    print(f"largest error {error:.1e}")
    assert error <= 1e-10
    assert_close(mean, expected.mean(dim=0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("mask_padding", [True, False])
def test_folded_scores_equal_direct_ones_to_twelve_digits(mask_padding):
    model = tiny_model(mask_padding=mask_padding)
    text, video = encoded(model, 5, 4)
    with torch.no_grad():
        folded = model.level_scores(text, video, "folded")
        direct = model.level_scores(text, video, "direct")
    assert_close(folded, direct, rtol=0, atol=1e-12)


def test_the_loss_equals_the_loops():
    model = tiny_model(csc_weight=0.7)
    text, video = encoded(model, 4, 4)
    levels = loops(model, text, video).numpy()
    csc = 0.7 * reference.score_consistency(levels)
    expected = reference.info_nce(model.kappa.item() * levels.mean(axis=0)) + csc
    losses = model.loss(text, video)
    error = abs(losses.total.item() - expected)
    print(f"largest error {error:.1e}")
    assert error <= 1e-10
    assert_close(losses.total, sum(losses[1:]))
    assert abs(losses.csc.item() - csc) <= 1e-10


def test_folding_keeps_single_precision():
    model = tiny_model()
    text, video = encoded(model, 6, 5)
    with torch.no_grad():
        expected = model.level_scores(text, video, "direct")
        model.float()
        text = TextFeatures(text.captions.float(), text.tokens.float(), text.mask)
        found = model.level_scores(
            text, VideoFeatures(video.frames.float(), video.mask)
        )
    assert (found.double() - expected).abs().max() < 1e-5


def test_the_pooling_is_that_of_the_gim():
    model = tiny_model()
    text, video = encoded(model)
    expected = frame_weights(text.captions, video.frames, video.mask, 2.0)
    found = glim_weights(text.captions[:, None], video.frames, video.mask, 2.0)
    assert_close(found[:, :, 0], expected)
    model.sentence_map.data = torch.eye(64).double()
    with torch.no_grad():
        first = model.level_scores(text, video)[0]
    gim = global_similarity(text.captions, video.frames, video.mask, 2.0)
    assert_close(first, gim)


def test_padding_does_not_matter_when_it_is_masked_and_does_as_released():
    (ids, token_mask), (pixels, frame_mask) = text_batch(), video_batch()
    noise = torch.randn(4, 2, 3, 16, 16, dtype=torch.float64)
    text = pad(ids, (0, 3)), pad(token_mask, (0, 3))
    video = torch.cat([pixels, noise], dim=1), pad(frame_mask, (0, 2))
    for masked in (True, False):
        model = tiny_model(max_words=10, mask_padding=masked)
        with torch.no_grad():
            long_text, short_video = model.encode_text(*text), encoded(model)[1]
            long_video = model.encode_video(*video)
            longer = model.similarity(long_text, long_video)
            shorter = model.similarity(long_text, short_video)
        assert torch.allclose(longer, shorter, rtol=0, atol=1e-12) == masked
        if masked:
            with torch.no_grad():
                fewer = model.similarity(
                    model.encode_text(ids, token_mask), short_video
                )
            assert_close(fewer, shorter, rtol=0, atol=1e-12)


def test_gradients_are_finite_and_the_same_folded_and_direct():
    gradients = []
    for method in ("folded", "direct"):
        model = tiny_model()
        text = model.encode_text(*text_batch(4))
        video = model.encode_video(*video_batch(4))
        model.level_scores(text, video, method).square().sum().backward()
        named = {
            name: p.grad for name, p in model.named_parameters() if p.grad is not None
        }
        assert all(gradient.isfinite().all() for gradient in named.values())
        gradients.append(named)
    assert gradients[0].keys() == gradients[1].keys()
    assert "word_map" in gradients[0]
    assert "mixes.5" in gradients[0]
    for name, gradient in gradients[0].items():
        assert_close(gradient, gradients[1][name], msg=f"gradient of {name}")
    model = tiny_model()
    text = model.encode_text(*text_batch(4))
    model.loss(text, model.encode_video(*video_batch(4))).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_random_captions_score_at_chance():
    generator = torch.Generator().manual_seed(0)
    model = tiny_model(max_words=4).float()
    captions = torch.randn(600, 64, generator=generator)
    tokens = torch.randn(600, 4, 64, generator=generator)
    frames = torch.randn(40, 3, 64, generator=generator)
    mask = torch.arange(4) < torch.randint(1, 5, (600, 1), generator=generator)
    real = torch.arange(3) < torch.randint(1, 4, (40, 1), generator=generator)
    with torch.no_grad():
        scores = model.similarity(
            TextFeatures(captions, tokens, mask), VideoFeatures(frames, real)
        )
    found = retrieval_metrics(scores, caption_to_video=torch.arange(600) % 40)["t2v"]
    for k in (1, 5, 10):
        share = chance(40, k) / 100
        allowed = 500 * (share * (1 - share) / 600) ** 0.5
        assert abs(found[f"R{k}"] - 100 * share) < allowed


def test_chunks_do_not_matter(monkeypatch):
    model = tiny_model()
    text, video = encoded(model)
    with torch.no_grad():
        whole = model.level_scores(text, video)
        monkeypatch.setattr(GLCCL, "chunk_elements", 1)
        assert_close(model.level_scores(text, video), whole)


def test_bad_input_is_named():
    model = tiny_model(mask_padding=False)
    text, video = encoded(model)
    short = TextFeatures(text.captions, text.tokens[:, :5], text.mask[:, :5])
    with pytest.raises(ValueError, match="must have 7 words, the size of the mixing"):
        model.similarity(short, video)
    with pytest.raises(ValueError, match="'folded' or 'direct', got 'gram'"):
        model.level_scores(text, video, "gram")
    text.tokens[3, 1] = float("inf")
    with pytest.raises(ValueError, match="tokens: row 3 has NaN"):
        model.similarity(text, video)
