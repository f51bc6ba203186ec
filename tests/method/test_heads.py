"""Similarity heads of other methods: plain loops, masks, folds, losses, training."""

from dataclasses import asdict
from math import exp, sqrt
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from tiny_model import TINY, text_batch, video_batch
from torch.testing import assert_close
from toy import toy_recipe, toy_related, toy_videos, weights
from two_processes import join

from glscl.backbone import Backbone, load_backbone
from glscl.config import MODEL_CONFIGS, get_preset, preset_names
from glscl.evaluate import evaluate
from glscl.metrics import retrieval_metrics
from glscl.retriever import TextFeatures
from glscl.runs import METHODS, load_model
from glscl.train import RunOptions, _Run, fit
from glscl.util import parallel

HEADS = ("clip4clip", "ts2net", "xclip", "xpool", "drl", "dicosa")
FOLDED = {"xpool": "table", "dicosa": "grams"}  # and a feature of the folded form
QUIET = RunOptions(progress=False)
A, B, L, F, D = 5, 4, 7, 3, 64
# Uneven sizes: captions, videos, words, frames.
CASES = [(A, B, L, F), (1, 3, 5, 1), (4, 1, 3, 4)]


def tiny_head(method, **changes):
    """A head over a CLIP of toy size, float64, nothing at its neutral start."""
    torch.manual_seed(0)
    settings = {"backbone": "tiny", "pretrained": None, "temporal_layers": 2}
    sizes = {"max_words": L, "max_frames": 4}
    config = MODEL_CONFIGS[method](**{**settings, **sizes, **changes})
    model = METHODS[method](Backbone("tiny", TINY), config).double()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def features(A=A, B=B, L=L, F=F):
    """Random captions, tokens, their mask; frames after T and before it, their mask."""
    generator = torch.Generator().manual_seed(1)

    def randn(*shape):
        return torch.randn(*shape, D, generator=generator, dtype=torch.float64)

    words = 2 + (torch.arange(A) * 2) % (L - 1)
    real = 1 + (F - 1 - torch.arange(B)) % F
    text = TextFeatures(randn(A), randn(A, L), torch.arange(L) < words[:, None])
    return text, (randn(B, F), randn(B, F), torch.arange(F) < real[:, None])


# --- plain loops, over lists of vectors --------------------------------------------


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def unit(x):
    length = sqrt(dot(x, x))
    return [a / length for a in x]


def softmax(x):
    shifted = [exp(a - max(x)) for a in x]
    return [a / sum(shifted) for a in shifted]


def mean(rows):
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def pool(weights, rows):
    return [dot(weights, column) for column in zip(*rows, strict=True)]


def affine(layer, x):
    W, b = layer.weight.tolist(), layer.bias.tolist()
    return [dot(row, x) + c for row, c in zip(W, b, strict=True)]


def layer_norm(layer, x):
    center = sum(x) / len(x)
    variance = sum((a - center) ** 2 for a in x) / len(x)
    scale, shift = layer.weight.tolist(), layer.bias.tolist()
    root = sqrt(variance + layer.eps)
    return [
        (a - center) / root * s + t for a, s, t in zip(x, scale, shift, strict=True)
    ]


def mixed(x, matrix, temperature, keep):
    """Σ_i x_i (softmax(x / τ) W)_i over the positions ``keep`` of ``x``."""
    w = softmax([x[i] / temperature for i in keep])
    return sum(
        x[i] * sum(w[n] * matrix[j][i] for n, j in enumerate(keep)) for i in keep
    )


def network(layers, x):
    hidden = [max(0.0, a) for a in affine(layers[0], x)]
    return affine(layers[2], hidden)[0]


def clip4clip(model, c, words, keep_w, f, x, keep_f):
    return dot(unit(c), unit(mean([unit(f[i]) for i in keep_f])))


def ts2net(model, c, words, keep_w, f, x, keep_f):
    scores = [dot(unit(c), unit(f[i])) for i in keep_f]
    u = unit(scores)
    return dot(scores, softmax([4 * a for a in u]))


def xclip(model, c, words, keep_w, f, x, keep_f):
    s, w, x = unit(c), [unit(a) for a in words], [unit(a) for a in x]
    v = unit(mean([unit(f[i]) for i in keep_f]))
    if not model.config.mask_padding:
        keep_w, keep_f = range(len(w)), range(len(x))
    Ms, Mw = model.sentence_map.T.tolist(), model.word_map.T.tolist()
    W, V = (
        [m.tolist() for m in mixes] for mixes in (model.word_mixes, model.frame_mixes)
    )
    mapped = [[dot(column, a) for column in Mw] for a in w]
    z = [[dot(a, b) for b in x] for a in mapped]
    t = model.config.temperature
    of_frames = [mixed([row[g] for row in z], W[1], t, keep_w) for g in range(len(x))]
    of_words = [mixed(row, V[2], t, keep_f) for row in z]
    fine = mixed(of_frames, V[1], t, keep_f) + mixed(of_words, W[2], t, keep_w)
    video_word = mixed([dot(a, v) for a in w], W[0], t, keep_w)
    sentence_frame = mixed([dot(s, b) for b in x], V[0], t, keep_f)
    coarse = dot([dot(column, s) for column in Ms], v)
    return (coarse + video_word + sentence_frame + fine / 2) / 4


def xpool(model, c, words, keep_w, f, x, keep_f):
    if not model.config.mask_padding:
        keep_f = range(len(f))
    q = affine(model.q, layer_norm(model.norm_in, c))
    rows = [layer_norm(model.norm_in, f[i]) for i in keep_f]
    w = softmax([dot(q, affine(model.k, row)) / sqrt(D) for row in rows])
    pooled = affine(model.out, pool(w, [affine(model.v, row) for row in rows]))
    p = layer_norm(model.norm_attention, pooled)
    moved = [a + b for a, b in zip(p, affine(model.linear, p), strict=True)]
    return dot(unit(c), unit(layer_norm(model.norm_out, moved)))


def drl(model, c, words, keep_w, f, x, keep_f):
    w, g = [unit(a) for a in words], [unit(a) for a in f]
    alpha = softmax([network(model.text_weight, words[i]) for i in keep_w])
    beta = softmax([network(model.video_weight, f[i]) for i in keep_f])
    # As released, padding scores 0 and may be the best.
    spare = [] if model.config.mask_padding else [0.0]
    words_too = spare if len(keep_w) < len(w) else []
    frames_too = spare if len(keep_f) < len(g) else []
    best_frame = [max([dot(w[i], g[j]) for j in keep_f] + frames_too) for i in keep_w]
    best_word = [max([dot(w[i], g[j]) for i in keep_w] + words_too) for j in keep_f]
    return (dot(alpha, best_frame) + dot(beta, best_word)) / 2


def slices(x, C):
    d = len(x) // C
    return [x[q * d : (q + 1) * d] for q in range(C)]


def dicosa_pool(model, c, f, keep_f):
    tau = model.config.temperature
    if model.config.mask_padding:
        return pool(
            softmax([dot(c, f[i]) / tau for i in keep_f]), [f[i] for i in keep_f]
        )
    w = softmax([dot(c, row) / tau for row in f])
    return pool([w[i] for i in keep_f], [f[i] for i in keep_f])


def dicosa(model, c, words, keep_w, f, x, keep_f):
    p, C = dicosa_pool(model, c, f, keep_f), model.config.num_concepts
    total = 0.0
    for one, two in zip(slices(c, C), slices(p, C), strict=True):
        hidden = [max(0.0, a) for a in affine(model.hidden, one + two)]
        total += affine(model.weight, hidden)[0] * dot(unit(one), unit(two))
    return total


def loops(method, model, text, video):
    """The score of every pair: (A, B)."""
    c, words, token_mask, _ = text
    f, x, mask = (part.tolist() for part in video)
    score = globals()[method]

    def keep(row):
        return [i for i, real in enumerate(row) if real]

    return torch.tensor(
        [
            [
                score(
                    model,
                    c[a].tolist(),
                    words[a].tolist(),
                    keep(token_mask[a]),
                    f[b],
                    x[b],
                    keep(mask[b]),
                )
                for b in range(len(f))
            ]
            for a in range(len(c))
        ],
        dtype=torch.float64,
    )


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("method", HEADS)
def test_every_score_equals_the_loops(method, masked):
    worst = 0.0
    for sizes in CASES if masked else CASES[:1]:
        # Released mixing matrices have one size.
        changes = {} if masked else {"max_words": sizes[2], "max_frames": sizes[3]}
        model = tiny_head(method, mask_padding=masked, **changes)
        text, video = features(*sizes)
        expected = loops(method, model, text, video)
        for fold in (False, True):
            with torch.no_grad():
                one, two = model.text_state(text, fold), model.video_state(*video, fold)
                found = model.similarity(one, two)
            assert found.shape == sizes[:2]
            worst = max(worst, (found - expected).abs().max().item())
    print(f"{method}: largest error {worst:.1e}")
    assert worst <= 1e-10


def test_the_masks_of_the_release_change_scores_where_it_masks_less():
    text, video = features(F=4)
    for method in ("xclip", "xpool", "drl", "dicosa"):
        scores = []
        for masked in (True, False):
            model = tiny_head(method, mask_padding=masked)
            state = model.text_state(text), model.video_state(*video)
            scores.append(model.similarity(*state))
        assert not torch.allclose(*scores, atol=1e-4), method


@pytest.mark.parametrize("method", HEADS)
def test_padding_is_not_seen(method):
    model = tiny_head(method)
    text, (frames, clip, mask) = features()
    other = text._replace(tokens=text.tokens.where(text.mask[..., None], 3.0))
    changed = [x.where(mask[..., None], -2.0) for x in (frames, clip)]
    for fold in (False, True):
        with torch.no_grad():
            one, two = (
                model.similarity(model.text_state(t, fold), model.video_state(*v, fold))
                for t, v in ((text, (frames, clip, mask)), (other, (*changed, mask)))
            )
        assert_close(one, two, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", FOLDED)
def test_the_folded_form_serves_evaluation_and_keeps_single_precision(method):
    model = tiny_head(method)
    ids, pixels = text_batch(A), video_batch(B, F)
    plain = model.similarity(model.encode_text(*ids), model.encode_video(*pixels))
    model.float()
    with torch.no_grad():
        text = model.encode_text(*ids)
        video = model.encode_video(pixels[0].float(), pixels[1])
    assert getattr(video, FOLDED[method]) is not None
    error = (model.similarity(text, video).double() - plain).abs().max()
    assert error <= 1e-6
    model.train()
    with torch.no_grad():
        video = model.encode_video(pixels[0].float(), pixels[1])
    assert getattr(video, FOLDED[method], None) is None


def standardised(rows):
    columns = []
    for column in zip(*rows, strict=True):
        center = sum(column) / len(column)
        deviation = sqrt(sum((a - center) ** 2 for a in column) / (len(column) - 1))
        columns.append([(a - center) / deviation for a in column])
    return [list(row) for row in zip(*columns, strict=True)]


def weighted_correlation(rows, partners, weight, count):
    x, y = standardised(rows), standardised(partners)
    every = range(len(x[0]))
    return [
        [
            sum(w * a[d] * b[e] for w, a, b in zip(weight, x, y, strict=True)) / count
            for e in every
        ]
        for d in every
    ]


@pytest.mark.parametrize("method", ["drl", "dicosa"])
def test_the_second_loss_equals_the_loops(method):
    changes = {
        "drl": {"cdcr_weight": 0.3, "cdcr_on": 0.2, "cdcr_off": 0.05},
        "dicosa": {"temperature": 2.0},
    }[method]
    model = tiny_head(method, **changes)
    text, video = features(4, 4)
    found = model.constraint(model.text_state(text), model.video_state(*video)).item()
    expected = {"drl": cdcr, "dicosa": slice_constraint}[method](model, text, video)
    assert abs(found - expected) <= 1e-10


def cdcr(model, text, video):
    lists = {name: [] for name in ("t", "t partner", "t w", "v", "v partner", "v w")}
    for a in range(4):
        words = [x.tolist() for x in text.tokens[a][text.mask[a]]]
        frames = [x.tolist() for x in video[0][a][video[2][a]]]
        w, f = [unit(x) for x in words], [unit(x) for x in frames]
        lists["t w"] += softmax([network(model.text_weight, x) for x in words])
        lists["v w"] += softmax([network(model.video_weight, x) for x in frames])
        lists["t"] += w
        lists["v"] += f
        lists["t partner"] += [max(f, key=lambda y, x=x: dot(x, y)) for x in w]
        lists["v partner"] += [max(w, key=lambda y, x=x: dot(x, y)) for x in f]
    one, two = (
        weighted_correlation(lists[s], lists[f"{s} partner"], lists[f"{s} w"], 4)
        for s in "tv"
    )
    on = sum(((one[d][d] + two[d][d]) / 2 - 1) ** 2 for d in range(D))
    off = sum(
        ((one[d][e] + two[d][e]) / 2) ** 2 for d in range(D) for e in range(D) if d != e
    )
    return 0.3 * (0.2 * on + 0.05 * off)


def slice_constraint(model, text, video):
    C, total = model.config.num_concepts, torch.zeros(8, 8, dtype=torch.float64)
    for a in range(4):
        c, f = text.captions[a].tolist(), video[0][a].tolist()
        keep = [i for i, real in enumerate(video[2][a]) if real]
        parts = [slices(v, C) for v in (c, dicosa_pool(model, c, f, keep))]
        # Standardised over the channels of each slice: columns of the transposed list.
        x, y = ([standardised([[b] for b in q]) for q in side] for side in parts)
        for q in range(C):
            for r in range(C):
                product = sum(i[0] * j[0] for i, j in zip(x[q], y[r], strict=True))
                total[q, r] += product / (4 * model.config.max_words)
    on = sum((total[q, q] - 1) ** 2 for q in range(C))
    off = sum(total[q, r] ** 2 for q in range(C) for r in range(C) if q != r)
    return float(0.01 * on + 0.005 * off)


def test_a_perfect_match_of_slices_scores_one_by_channels_and_not_as_released():
    text, (frames, clip, mask) = features(4, 4, F=1)
    text = text._replace(captions=frames[:, 0])
    found = {}
    for how in ("channels", "released"):
        model = tiny_head("dicosa", concept_off=0.0, concept_normalise=how, max_words=9)
        video = model.video_state(frames, clip, mask)
        found[how] = model.constraint(model.text_state(text), video).item()
    assert found["channels"] == pytest.approx(0)
    assert found["released"] > 1e-6


@pytest.mark.parametrize("method", HEADS)
def test_random_features_are_retrieved_by_chance_only(method):
    model = tiny_head(method)
    torch.manual_seed(5)
    n = 60
    every = torch.ones(n, 3, dtype=torch.bool)
    kind = {"dtype": torch.float64}
    text = TextFeatures(torch.randn(n, D, **kind), torch.randn(n, 3, D, **kind), every)
    frames = torch.randn(n, 3, D, **kind)
    with torch.no_grad():
        scores = model.similarity(
            model.text_state(text), model.video_state(frames, frames, every)
        )
    found = retrieval_metrics(scores)["t2v"]
    assert 18 < found["MdR"] < 43
    assert found["R1"] < 12


PUBLISHED = {
    "clip4clip": 0,
    "ts2net": 0,
    "xclip": 527_792,
    "xpool": 1_316_352,
    "drl": 526_338,
    "dicosa": 33_281,
}


@pytest.mark.parametrize("method", HEADS)
def test_a_head_has_the_published_number_of_parameters(method):
    config = get_preset("msrvtt", method=method).model
    with torch.device("meta"):
        model = METHODS[method](load_backbone("ViT-B-32-quickgelu", None), config)
    count = sum(
        p.numel()
        for name, p in model.named_parameters()
        if not name.startswith(("backbone.", "temporal."))
    )
    assert count == PUBLISHED[method]


# --- training ----------------------------------------------------------------------


@pytest.fixture
def double():
    """Float64, so that a difference is one of the computation, not of rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def toy_head(method):
    """A toy model; without dropout, whose draws differ between parts and processes."""
    return toy_related(method, **({"dropout": 0.0} if method == "xpool" else {}))


def gradients_of(method, options):
    run = _Run(toy_head(method).double(), toy_videos(), toy_recipe(), None, options)
    run.model.train()
    batch = next(run._rest_of_epoch())
    losses = run.backward(batch.trimmed())
    parallel.average_gradients(run.parameters)
    named = run.model.named_parameters()
    return losses, {n: p.grad for n, p in named if p.grad is not None}


def assert_same(found, expected, method):
    assert found.keys() >= expected.keys()
    for name, gradient in expected.items():
        message = f"{method} {name}"
        assert_close(found[name], gradient, rtol=1e-8, atol=1e-9, msg=message)


def _one_process(rank, size, folder):
    join(rank, folder, size)
    torch.set_default_dtype(torch.float64)
    found = {}
    for method in HEADS:
        losses, gradients = gradients_of(method, QUIET)
        found[method] = losses.total.detach(), gradients
    torch.save(found, Path(folder) / f"{rank}.pt")


@pytest.mark.usefixtures("double")
def test_parts_and_two_processes_have_the_loss_and_gradients_of_one(
    tmp_path, free_port
):
    (tmp_path / "port").write_text(str(free_port))
    mp.spawn(_one_process, args=(2, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for method in HEADS:
        losses, expected = gradients_of(method, QUIET)
        parts, gradients = gradients_of(
            method, RunOptions(progress=False, micro_batch=3)
        )
        assert_close(parts.total, losses.total, rtol=0, atol=1e-9)
        assert_same(gradients, expected, method)
        own = {n for n in expected if not n.startswith("backbone.")}
        assert own
        assert all(expected[n].abs().sum() > 0 for n in own if "bias" not in n)
        for rank in ranks:
            loss, gradients = rank[method]
            assert_close(loss, losses.total.detach(), rtol=0, atol=1e-9)
            assert_same(gradients, expected, method)


@pytest.mark.parametrize("method", HEADS)
def test_a_head_learns_is_saved_and_found_by_its_method(method, tmp_path):
    options = RunOptions(progress=False, folder=tmp_path)
    model, videos, val = toy_head(method), toy_videos(), toy_videos(6, 3, "val")
    history = fit(model, videos, toy_recipe(epochs=4, learning_rate=3e-3), val, options)
    first, last = history.steps[0], history.steps[-1]
    assert last["total"] < first["total"]
    (folder,) = tmp_path.glob("best-*")
    loaded = load_model(folder)
    assert (loaded.method, asdict(loaded.config)) == (method, asdict(model.config))
    assert all(torch.equal(x, weights(model)[n]) for n, x in weights(loaded).items())
    whole = evaluate(loaded, val, batch_size=100).similarity
    assert whole.shape == (18, 6)
    for size in (1, 4):
        found = evaluate(loaded, val, batch_size=size).similarity
        assert_close(found, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", HEADS)
def test_every_preset_of_a_head_says_what_its_release_does(method):
    assert preset_names(method)[:2] == ["mini", "msrvtt"]
    released = get_preset("msrvtt", "released", method)
    assert (released.model.mask_padding, released.train.select_on) == (False, "test")
    assert released.model.temporal_layers == (0 if method == "xpool" else 4)


def test_slices_that_do_not_fit_are_named():
    with pytest.raises(
        ValueError, match="num_concepts must divide the 64 channels, got 5"
    ):
        tiny_head("dicosa", num_concepts=5)
