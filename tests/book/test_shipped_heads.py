"""The heads that are counted: equal to plain loops, every fold to what it folds."""

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from book.experiments.formulas import Sizes
from book.experiments.shipped_heads import (
    EERCFHead,
    GLCCLHead,
    Texts,
    Videos,
    eercf_model,
    glccl_model,
    reference_heads,
)
from glscl.gim import global_similarity

A, B, F, L, P, D = 3, 5, 7, 4, 2, 24
SIZES = Sizes(D=D, F=F, L=L, P=P, Q=3, C=4, H=4, decoder_layers=2)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def inputs(scale=1.0):
    """Random features in float64: captions of A items, frames of B."""
    kind = {"dtype": torch.float64}
    texts = Texts(scale * torch.randn(A, D, **kind), torch.randn(A, L, D, **kind))
    return texts, Videos(torch.randn(B, F, D, **kind), torch.randn(B, F, P, D, **kind))


def random_weights(head):
    """The head in float64 with no weight at its neutral start."""
    head = head.double().eval()
    for parameter in head.parameters():
        parameter.data = parameter.data + 0.3 * torch.randn_like(parameter)
    return head


def with_fold(name, gram=None):
    """A head of random weights and its fold with the same, both in float64."""
    plain, folded = reference_heads(SIZES, **({} if gram is None else {"gram": gram}))[
        name
    ]
    random_weights(plain)
    folded.double().eval().load_state_dict(plain.state_dict())
    return plain, folded


def mixed(x, mix):
    """Σ_i x_i (softmax(x / 0.01) mix)_i of one vector, by loops."""
    weights = (x / 0.01).softmax(0)
    total = 0.0
    for i in range(len(x)):
        total += x[i] * sum(weights[j] * mix[j, i] for j in range(len(x)))
    return total


FOLDS = [name for name, (_, fold) in reference_heads(SIZES).items() if fold]


@pytest.mark.parametrize("name", FOLDS)
def test_every_fold_is_exact(name):
    plain, folded = with_fold(name)
    texts, videos = inputs()
    with torch.no_grad():
        expected, found = plain(*texts, *videos), folded(*texts, *videos)
    assert expected.shape == (A, B)
    assert expected.std() > 1e-2
    assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FOLDS)
def test_every_fold_keeps_single_precision(name):
    plain, folded = with_fold(name)
    texts, videos = inputs()
    with torch.no_grad():
        expected = plain(*texts, *videos)
        found = folded.float()(*(x.float() for x in (*texts, *videos)))
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error < 1e-5


def test_the_gim_that_is_timed_gives_the_scores_of_the_one_that_is_counted():
    plain, folded = with_fold("GLSCL", gram=global_similarity)
    texts, videos = inputs()
    with torch.no_grad():
        expected, found = plain(*texts, *videos), folded(*texts, *videos)
    assert_close(found, expected, rtol=0, atol=1e-12)


def test_glccl_equals_loops():
    head = random_weights(GLCCLHead(glccl_model(SIZES), "direct"))
    texts, videos = inputs()
    found = head(*texts, *videos)
    model, mix = head.model, head.model.mixes
    for a in range(A):
        s = normalize(texts.captions[a], dim=0)
        w = normalize(texts.tokens[a], dim=1)
        for b in range(B):
            f = videos.frames[b]

            def pool(x, f=f):
                return normalize((f @ x / 5).softmax(0) @ f, dim=0)

            v = pool(texts.captions[a])
            u = torch.stack([pool(x) for x in texts.tokens[a]])
            z = w @ model.word_map @ u.T
            r_words = torch.stack([mixed(z[:, i], mix[2]) for i in range(L)])
            r_frames = torch.stack([mixed(z[i], mix[4]) for i in range(L)])
            fine = (mixed(r_words, mix[3]) + mixed(r_frames, mix[5])) / 2
            middle = mixed(w @ v, mix[0]) + mixed(u @ s, mix[1])
            expected = (s @ model.sentence_map @ v + middle + fine) / 4
            assert_close(found[a, b], expected)


@pytest.mark.parametrize("patches", [False, True])
def test_eercf_equals_loops(patches):
    head = random_weights(EERCFHead(eercf_model(SIZES, patches)))
    model = head.model
    texts, videos = inputs()
    found = head(*texts, *videos)
    for a in range(A):
        t = normalize(texts.captions[a], dim=0)
        for b in range(B):
            f = normalize(videos.frames[b], dim=1)
            strong = normalize((f @ t / 0.1).softmax(0) @ f, dim=0)
            expected = 0.5 * t @ model.video_map @ normalize(f.mean(0), dim=0)
            expected = expected + 0.8 * mixed(f @ t, model.frame_mix) + 0.2 * t @ strong
            if patches:
                y = normalize(videos.patches[b].flatten(0, 1), dim=1) @ t
                expected = expected + 0.2 * (y * (y / 0.01).softmax(0)).sum()
            assert_close(found[a, b], expected)


def test_two_stages_rerank_the_recalled_and_leave_the_rest():
    dense = random_weights(EERCFHead(eercf_model(SIZES)))
    staged = EERCFHead(dense.model, shortlist=2)
    texts, videos = inputs()
    with torch.no_grad():
        full, found = dense(*texts, *videos), staged(*texts, *videos)
        coarse = dense.per_query(texts)[1] @ dense.per_video(videos)[0].T
    for a in range(A):
        order = coarse[a].argsort(descending=True)
        recalled, rest = order[:2], order[2:]
        lifted = found[a, recalled] - full[a, recalled]
        assert_close(lifted, lifted[:1].expand(2))
        assert_close(found[a, rest], coarse[a, rest])
        assert found[a, recalled].min() > found[a, rest].max()


def test_missing_patches_are_named():
    texts, videos = inputs()
    with pytest.raises(ValueError, match=r"videos\.patches is missing"):
        EERCFHead(eercf_model(SIZES).double())(*texts, videos.frames)
