"""Counts: formula, fvcore and FlopCounterMode agree for every head and phase."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from book.experiments import cost_comparison, counters, formulas
from book.experiments.__main__ import app
from book.experiments.counters import PhaseMacs, fvcore_macs, phase_macs, torch_macs
from book.experiments.formulas import HeadMacs, Sizes
from book.experiments.shipped_heads import (
    EERCFHead,
    Texts,
    Videos,
    eercf_model,
    glccl_model,
    reference_heads,
)
from glscl.backbone import load_backbone
from glscl.gim import gram_form
from glscl.lim import DECODED_AT_ONCE, LocalInteraction
from glscl.retriever import TextFeatures, VideoFeatures
from glscl.temporal import FrameTransformer
from glscl.util.gram_blocks import gram_matrices, gram_sums, inner_products

A, B = 3, 5
UNEVEN = (
    Sizes(D=64, F=6, L=7, Q=4, P=3, C=4, H=8),
    Sizes(),
)
TOOLS = (torch_macs, fvcore_macs)


class Call(nn.Module):
    """Any function as a module; modules it uses are passed to be found."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, *inputs):
        return self.function(*inputs)


def inputs(sizes):
    torch.manual_seed(0)
    D, F, L, P = sizes.D, sizes.F, sizes.L, sizes.P
    texts = Texts(torch.randn(A, D), torch.randn(A, L, D))
    return texts, Videos(torch.randn(B, F, D), torch.randn(B, F, P, D))


def real(x):
    return torch.ones(x.shape[:2], dtype=torch.bool)


HEADS = reference_heads(UNEVEN[0])
SAME = {"CLIP-ViP", "CenterCLIP", "Prompt Switch"}  # mean pooling, as CLIP4Clip


def expected(macs, once=0):
    return PhaseMacs(macs.video, macs.query, macs.pair, once)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("sizes", UNEVEN, ids=["small", "published"])
@pytest.mark.parametrize("name", HEADS)
def test_every_head_costs_what_its_formula_says(name, sizes, tool):
    head, (texts, videos) = reference_heads(sizes)[name][0], inputs(sizes)
    macs = formulas.head_macs(sizes)[name]
    assert phase_macs(head, texts, videos, tool) == expected(macs)
    assert tool(head, *texts, *videos) == macs.total(A, B)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("sizes", UNEVEN, ids=["small", "published"])
@pytest.mark.parametrize("name", [name for name, (_, fold) in HEADS.items() if fold])
def test_every_fold_costs_what_its_formula_says(name, sizes, tool):
    head, (texts, videos) = reference_heads(sizes)[name][1], inputs(sizes)
    macs = formulas.folded_macs(sizes)[name]
    # Captions and videos each start from the queries of the decoder.
    once = 2 * formulas.shared_decoder_macs(sizes) if name == "GLSCL" else 0
    assert phase_macs(head, texts, videos, tool) == expected(macs, once)
    assert tool(head, *texts, *videos) == macs.total(A, B) + once


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("sizes", UNEVEN, ids=["small", "published"])
def test_the_gram_form_costs_what_its_formula_says(sizes, tool):
    texts, (frames, _) = inputs(sizes)
    head = Call(gram_form)
    found = phase_macs(head, texts[:1], (frames, real(frames)), tool)
    assert found == expected(formulas.folded_macs(sizes)["GIM"])


@pytest.mark.parametrize("name", HEADS)
def test_what_is_timed_as_the_work_of_a_pair_is_counted_as_such(name):
    sizes = UNEVEN[0]
    texts, videos = inputs(sizes)
    tables = formulas.head_macs(sizes), formulas.folded_macs(sizes)
    for head, table in zip(HEADS[name], tables, strict=True):
        if head is None:
            continue
        with torch.no_grad():
            states = head.per_query(texts), head.per_video(videos)
        # Gram matrices are made where they are used, once for each video.
        gram = name in ("GLSCL", "GLCCL") and table is tables[1]
        once = B * sizes.F**2 * sizes.D if gram else 0
        found = torch_macs(head.per_pair, *states)
        assert found == A * B * table[name].pair + once


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize("sizes", UNEVEN, ids=["small", "published"])
def test_two_stages_pay_for_the_shortlist_alone(sizes, patches, tool):
    head = EERCFHead(eercf_model(sizes, patches), shortlist=2)
    macs = formulas.eercf_macs(sizes, patches, shortlist=2)
    # The model computes the coarse score of reranked pairs a second time.
    query = macs.query + macs.shortlist * (macs.reranked + sizes.D)
    found = phase_macs(head, *inputs(sizes), tool)
    assert found == PhaseMacs(macs.video, query, macs.pair, 0)


@pytest.mark.parametrize("method", ["folded", "direct"])
def test_queries_are_mapped_once_whatever_the_chunks_of_videos(monkeypatch, method):
    sizes = UNEVEN[0]
    model, (texts, (frames, _)) = glccl_model(sizes), inputs(sizes)
    text = TextFeatures(*texts, real(texts.tokens))
    video = VideoFeatures(frames, real(frames))
    tables = {"folded": formulas.folded_macs, "direct": formulas.head_macs}
    macs = tables[method](sizes)["GLCCL"]
    for size in (1_000_000, 1):
        monkeypatch.setattr("glscl.glccl.GLCCL.chunk_elements", size)
        found = torch_macs(lambda: model.level_scores(text, video, method))
        assert found == macs.total(A, B)


def test_phases_need_two_captions_and_two_videos():
    texts, videos = inputs(UNEVEN[0])
    head = HEADS["CLIP4Clip"][0]
    with pytest.raises(
        ValueError, match="two captions and videos or more, got 1 and 5"
    ):
        phase_macs(head, [x[:1] for x in texts], videos)


def test_every_row_of_the_tables_has_a_head():
    plain = formulas.head_macs(Sizes())
    assert {plain[name] for name in SAME} == {plain["CLIP4Clip"]}
    assert plain["Prompt Switch, transformer"] == plain["X-Pool"]
    others = {"Prompt Switch, transformer", *SAME}
    staged = {"EERCF, frames, two-stage", "EERCF, patches, two-stage"}
    assert set(plain) - others - staged == set(HEADS)
    folded = set(formulas.folded_macs(Sizes())) - {"GIM", "Prompt Switch, transformer"}
    assert folded == {name for name, (_, fold) in HEADS.items() if fold}


class Exponentials(TorchDispatchMode):
    """Counts the exponentials that the softmaxes of a call take."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._softmax.default, torch.ops.aten.exp.default):
            self.count += result.numel()
        return result


@pytest.mark.parametrize("sizes", UNEVEN, ids=["small", "published"])
def test_softmax_exponentials_are_counted(sizes):
    texts, videos = inputs(sizes)
    tables = formulas.head_macs(sizes), formulas.folded_macs(sizes)
    for name, heads in reference_heads(sizes).items():
        for head, table in zip(heads, tables, strict=True):
            if head is None:
                continue
            with torch.no_grad():
                states = head.per_query(texts), head.per_video(videos)
                with Exponentials() as found:
                    head.per_pair(*states)
            assert found.count == A * B * table[name].exponentials, name


@pytest.mark.parametrize("tool", TOOLS)
def test_both_towers_and_the_frame_transformer_are_counted(tool):
    with torch.device("meta"):  # counting needs sizes, not weights
        backbone = load_backbone("ViT-B-32-quickgelu", None)
    backbone = backbone.to_empty(device="cpu")
    pixels, ids = torch.zeros(1, 3, 224, 224), torch.ones(1, 77, dtype=torch.long)
    image = Call(backbone.encode_image, backbone)
    assert tool(image, pixels) == cost_comparison.frame_macs()
    text = Call(lambda x: tuple(backbone.encode_text(x)), backbone)
    assert tool(text, ids) == cost_comparison.caption_macs(77, projected=77)
    sizes = UNEVEN[0]
    frames = torch.randn(B, sizes.F, sizes.D)
    temporal = FrameTransformer(sizes.D, 4)
    found = tool(temporal, frames, torch.ones(B, sizes.F))
    assert found == B * cost_comparison.temporal_macs(sizes)


@pytest.mark.parametrize("tool", TOOLS)
def test_the_package_pays_for_its_safety_check_and_no_more(tool):
    # w · s and w · (G w) are elementwise there; the check for frames that cancel takes
    # one product of F lengths.
    s = UNEVEN[0]
    texts, videos = inputs(s)
    out = torch.empty(3, B, A).unbind()
    workspace = torch.empty(B, s.F, A), torch.empty(B, s.F + 1, A)

    def sums(captions, frames, mask):
        products = inner_products(captions, frames, mask)
        gram_sums(products, gram_matrices(frames, mask), 0.0, workspace, out)
        return out

    gram = Call(sums)
    mask = torch.ones(B, s.F, dtype=torch.bool)
    pair = s.F * s.D + s.F**2 + s.F
    found = tool(gram, texts.captions, videos.frames, mask)
    assert found == A * B * pair + B * s.F**2 * s.D


@pytest.mark.parametrize("tool", TOOLS)
def test_the_shared_part_of_the_decoder_is_paid_once_a_chunk(tool):
    sizes = UNEVEN[0]
    lim = LocalInteraction(sizes.D, sizes.Q, sizes.decoder_layers, sizes.H)
    N = DECODED_AT_ONCE["cpu"] + 2
    found = tool(lim, torch.randn(N, sizes.F, sizes.D))
    each = formulas.folded_decoder_macs(sizes.F, sizes)
    assert found == N * each + 2 * formulas.shared_decoder_macs(sizes)


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (lambda a, b: a @ b, [(3, 8), (5, 2, 8, 4)], 3 * 8 * 5 * 2 * 4),
        (lambda a, b: torch.einsum("ad,bfd->abf", a, b), [(3, 8), (5, 2, 8)], 240),
        (lambda a, b: torch.einsum("ab,bf->abf", a, b), [(3, 8), (8, 2)], 0),
        (torch.mv, [(3, 8), (8,)], 24),
        (torch.dot, [(8,), (8,)], 8),
        (torch.baddbmm, [(5, 3, 4), (5, 3, 8), (5, 8, 4)], 5 * 3 * 8 * 4),
        (
            nn.functional.scaled_dot_product_attention,
            [(2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4)],
            2 * 3 * 5 * 7 * (8 + 4),
        ),
        (nn.functional.layer_norm, [(3, 8)], 0),
    ],
)
def test_operators_that_tools_miscount(function, shapes, macs):
    tensors = [torch.randn(shape) for shape in shapes]
    norm = function is nn.functional.layer_norm  # traced with its weights
    module = nn.LayerNorm(8) if norm else Call(function)
    assert fvcore_macs(module, *tensors) == macs
    if function not in (torch.mv, torch.dot):  # FlopCounterMode has no rule for these
        assert torch_macs(module, *tensors) == macs


def test_the_handles_are_needed(monkeypatch):
    t, v = torch.randn(3, 8), torch.randn(5, 6, 8)
    monkeypatch.setattr(counters, "HANDLES", {})
    assert fvcore_macs(Call(lambda a, b: a @ b.mT), t, v) < 3 * 5 * 6 * 8
    assert fvcore_macs(nn.LayerNorm(8), t) > 0


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda a, b: torch.cdist(a, b), "aten::cdist"),
        (nn.functional.cosine_similarity, "aten::cosine_similarity"),
    ],
)
def test_an_uncounted_operator_that_multiplies_is_refused(function, name):
    with pytest.raises(ValueError, match=name):
        fvcore_macs(Call(function), torch.randn(3, 8), torch.randn(3, 8))


def test_einsums_of_other_kinds_are_refused():
    x = torch.randn(3, 3)
    with pytest.raises(ValueError, match="expected two operands, no diagonal"):
        fvcore_macs(Call(lambda x: torch.einsum("aa,ab->b", x, x)), x)


def test_counting_leaves_the_module_as_it_was():
    lim = LocalInteraction(16, num_queries=3, num_heads=4).train()
    lim.queries.requires_grad_(False)
    fast = torch.backends.mha.get_fastpath_enabled()
    for tool in TOOLS:
        tool(lim, torch.randn(2, 5, 16))
    assert lim.training
    assert lim.decoder.layers[0].dropout1.training
    assert not lim.queries.requires_grad
    assert lim.decoder.layers[0].linear1.weight.requires_grad
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_impossible_sizes_are_named():
    with pytest.raises(ValueError, match="F must be at least 1, got 0"):
        Sizes(F=0)
    with pytest.raises(ValueError, match="C must divide the 512 channels, got 7"):
        Sizes(C=7)


def test_totals_add_up():
    macs = HeadMacs(video=3, query=5, pair=7, reranked=11, shortlist=2)
    assert macs.per_query(4) == 4 * 7 + 2 * 11
    assert macs.per_query(1) == 7 + 11
    assert macs.total(captions=10, videos=4) == 10 * 5 + 4 * 3 + 10 * (28 + 22)


def test_the_command_prints_every_head_at_any_size():
    arguments = ["--dim", "64", "--frames", "3", "--captions", "7", "--videos", "11"]
    result = CliRunner().invoke(app, ["flops", *arguments])
    assert result.exit_code == 0
    header, *lines = result.output.splitlines()
    assert "total G" in header
    table = formulas.head_macs(Sizes(D=64, F=3))
    assert [line[:27].strip() for line in lines] == list(table)
    for line, macs in zip(lines, table.values(), strict=True):
        found = line[27:].replace(",", "").split()
        assert int(found[0]) == round(macs.per_query(11) / 11)
        assert float(found[-1]) == round(macs.total(7, 11) / 1e9, 2)


def test_the_command_refuses_impossible_sizes_in_a_sentence():
    result = CliRunner().invoke(app, ["flops", "--frames", "0"])
    assert result.exit_code == 1
    assert "F must be at least 1, got 0" in result.output
    result = CliRunner().invoke(app, ["flops", "--videos", "0"])
    assert "captions and videos must be at least 1" in result.output
