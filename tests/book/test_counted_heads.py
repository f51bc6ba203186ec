"""The heads that are counted: equal to plain loops, every fold to what it folds."""

import pytest
import torch
from torch.nn.functional import layer_norm, normalize
from torch.testing import assert_close

from book.experiments.counted_heads import (
    WTI,
    XCLIP,
    DiCoSA,
    MeanPooling,
    Texts,
    TS2Net,
    Videos,
    XPool,
)
from book.experiments.shipped_heads import (
    EERCFHead,
    GLCCLHead,
    eercf_model,
    glccl_model,
    reference_heads,
)
from glscl.costs.formulas import Sizes
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


def test_mean_pooling_and_frame_weighting_equal_loops():
    texts, videos = inputs()
    mean, weighted = MeanPooling()(*texts, *videos), TS2Net()(*texts, *videos)
    for a in range(A):
        t = texts.captions[a] / texts.captions[a].norm()
        for b in range(B):
            frames = videos.frames[b]
            pooled = frames.mean(0)
            assert_close(mean[a, b], t @ pooled / pooled.norm())
            s = torch.stack([t @ f / f.norm() for f in frames])
            assert_close(weighted[a, b], ((s / 0.01).softmax(0) * s).sum())


def test_token_wise_interaction_equals_loops():
    head = random_weights(WTI(D))
    texts, videos = inputs()
    found = head(*texts, *videos)
    w = normalize(texts.tokens, dim=-1)
    f = normalize(videos.frames, dim=-1)
    for a in range(A):
        p = head.text_weight(texts.tokens[a])[:, 0].softmax(0)
        for b in range(B):
            q = head.video_weight(videos.frames[b])[:, 0].softmax(0)
            words = sum(
                p[i] * max(w[a, i] @ f[b, j] for j in range(F)) for i in range(L)
            )
            images = sum(
                q[j] * max(w[a, i] @ f[b, j] for i in range(L)) for j in range(F)
            )
            assert_close(found[a, b], (words + images) / 2)


def test_multi_grained_scores_equal_loops():
    head = random_weights(XCLIP(D, F, L))
    texts, videos = inputs()
    found = head(*texts, *videos)
    words, frames = head.mix_words, head.mix_frames
    for a in range(A):
        s = normalize(texts.captions[a], dim=0)
        w = normalize(texts.tokens[a], dim=1)
        for b in range(B):
            f = normalize(videos.frames[b], dim=1)
            v = normalize(f.mean(0), dim=0)
            z = w @ head.word @ f.T
            per_frame = torch.stack([mixed(z[:, j], words[1]) for j in range(F)])
            per_word = torch.stack([mixed(z[i], frames[1]) for i in range(L)])
            fine = (mixed(per_frame, frames[2]) + mixed(per_word, words[2])) / 2
            coarse = s @ head.sentence @ v
            middle = mixed(w @ v, words[0]) + mixed(f @ s, frames[0])
            assert_close(found[a, b], (coarse + middle + fine) / 4)


def test_cross_attention_pooling_equals_loops():
    head = random_weights(XPool(D))
    texts, videos = inputs()
    found = head(*texts, *videos)

    def norm(x, layer):
        return layer_norm(x, (D,), layer.weight, layer.bias)

    for a in range(A):
        q = head.q(norm(texts.captions[a], head.norm_in))
        for b in range(B):
            frames = norm(videos.frames[b], head.norm_in)
            w = (head.k(frames) @ q / D**0.5).softmax(0)
            x = norm(head.out(w @ head.v(frames)), head.norm_attention)
            pooled = norm(x + head.linear(x), head.norm_out)
            cosine = texts.captions[a] @ pooled
            cosine = cosine / texts.captions[a].norm() / pooled.norm()
            assert_close(found[a, b], cosine)


def test_concept_weighting_equals_loops():
    head = random_weights(DiCoSA(D, 4))
    texts, videos = inputs()
    found = head(*texts, *videos)
    d = D // 4
    for a in range(A):
        t = texts.captions[a]
        for b in range(B):
            frames = videos.frames[b]
            pooled = (frames @ t / head.temperature).softmax(0) @ frames
            total = 0.0
            for c in range(4):
                part = slice(c * d, (c + 1) * d)
                both = torch.cat([t[part], pooled[part]])
                weight = head.weight(head.hidden(both).relu())[0]
                cosine = t[part] @ pooled[part] / t[part].norm() / pooled[part].norm()
                total += weight * cosine
            assert_close(found[a, b], total)


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


def test_missing_patches_and_uneven_slices_are_named():
    texts, videos = inputs()
    with pytest.raises(ValueError, match=r"videos\.patches is missing"):
        EERCFHead(eercf_model(SIZES).double())(*texts, videos.frames)
    with pytest.raises(ValueError, match="concepts must divide the 24 channels, got 5"):
        DiCoSA(D, 5)
