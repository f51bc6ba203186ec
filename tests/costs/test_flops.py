"""Counts: formula, fvcore and FlopCounterMode agree; the published figures follow."""

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from glscl.backbone import load_backbone
from glscl.cli import app
from glscl.costs import flops, heads
from glscl.costs.flops import HeadMacs, Sizes, fvcore_macs, phase_macs, torch_macs
from glscl.gim import gram_matrices, gram_sums, inner_products
from glscl.lim import DECODED_AT_ONCE, LocalInteraction
from glscl.temporal import FrameTransformer

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
    texts = heads.Texts(torch.randn(A, D), torch.randn(A, L, D))
    return texts, heads.Videos(torch.randn(B, F, D), torch.randn(B, F, P, D))


def plain_heads(s):
    """A reference head for every way of computing in ``head_macs``."""
    lim = LocalInteraction(s.D, s.Q, s.decoder_layers, s.H)
    return {
        "CLIP4Clip": heads.MeanPooling(),
        "TS2-Net": heads.TS2Net(),
        "X-CLIP": heads.XCLIP(s.D, s.F, s.L),
        "X-Pool": heads.XPool(s.D),
        "DiCoSA": heads.DiCoSA(s.D, s.C),
        "GLSCL": heads.GLSCLHead(lim),
        "WTI": heads.WTI(s.D),
        "GLCCL": heads.GLCCL(s.D, s.L),
        "EERCF, frames": heads.EERCF(s.D, s.F, patches=False),
        "EERCF, frames and patches": heads.EERCF(s.D, s.F),
    }


def folded_heads(s):
    lim = LocalInteraction(s.D, s.Q, s.decoder_layers, s.H)
    return {
        "GIM": heads.GlobalGram(),
        "GLSCL": heads.GLSCLFolded(lim),
        "X-Pool": heads.XPoolFolded(s.D),
        "DiCoSA": heads.DiCoSAFolded(s.D, s.C),
        "GLCCL": heads.GLCCLFolded(s.D, s.L),
    }


SAME = {"CLIP-ViP", "CenterCLIP", "Prompt Switch"}  # mean pooling, as CLIP4Clip


def expected(macs, once=0):
    return {
        "video": B * macs.video + once,
        "query": A * macs.query + once,
        "pair": A * macs.per_query(B),
    }


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("sizes", UNEVEN, ids=["small", "published"])
@pytest.mark.parametrize("name", plain_heads(UNEVEN[0]))
def test_every_head_costs_what_its_formula_says(name, sizes, tool):
    head, (texts, videos) = plain_heads(sizes)[name], inputs(sizes)
    found = phase_macs(head, texts, videos, tool)
    assert found == expected(flops.head_macs(sizes)[name])


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("sizes", UNEVEN, ids=["small", "published"])
@pytest.mark.parametrize("name", folded_heads(UNEVEN[0]))
def test_every_fold_costs_what_its_formula_says(name, sizes, tool):
    head, (texts, videos) = folded_heads(sizes)[name], inputs(sizes)
    once = flops.shared_decoder_macs(sizes) if name == "GLSCL" else 0
    found = phase_macs(head, texts, videos, tool)
    assert found == expected(flops.folded_macs(sizes)[name], once)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize("sizes", UNEVEN, ids=["small", "published"])
def test_two_stages_pay_for_the_shortlist_alone(sizes, patches, tool):
    head = heads.EERCFTwoStage(sizes.D, sizes.F, patches, shortlist=2)
    found = phase_macs(head, *inputs(sizes), tool)
    assert found == expected(flops.eercf_macs(sizes, patches, shortlist=2))


def test_every_row_of_the_tables_has_a_head():
    plain = flops.head_macs(Sizes())
    assert {plain[name] for name in SAME} == {plain["CLIP4Clip"]}
    assert plain["Prompt Switch, transformer"] == plain["X-Pool"]
    others = {"Prompt Switch, transformer", *SAME}
    staged = {"EERCF, frames, two-stage", "EERCF, patches, two-stage"}
    assert set(plain) - others - staged == set(plain_heads(UNEVEN[0]))
    folded = set(flops.folded_macs(Sizes())) - {"Prompt Switch, transformer"}
    assert folded == set(folded_heads(UNEVEN[0]))
    assert set(flops.paper_like_macs(Sizes())) <= set(plain)


@pytest.mark.parametrize("sizes", UNEVEN, ids=["small", "published"])
def test_softmax_exponentials_are_counted(sizes):
    texts, videos = inputs(sizes)
    for table, every in (
        (flops.head_macs(sizes), plain_heads(sizes)),
        (flops.folded_macs(sizes), folded_heads(sizes)),
    ):
        for name, head in every.items():
            with torch.no_grad():
                states = head.per_query(texts), head.per_video(videos)
            found = flops.softmax_exponentials(head.per_pair, *states)
            assert found == A * B * table[name].exponentials, name


@pytest.mark.parametrize("tool", TOOLS)
def test_both_towers_and_the_frame_transformer_are_counted(tool):
    with torch.device("meta"):  # counting needs sizes, not weights
        backbone = load_backbone("ViT-B-32-quickgelu", None)
    backbone = backbone.to_empty(device="cpu")
    pixels, ids = torch.zeros(1, 3, 224, 224), torch.ones(1, 77, dtype=torch.long)
    image = Call(backbone.encode_image, backbone)
    assert tool(image, pixels) == flops.frame_macs()
    text = Call(lambda x: tuple(backbone.encode_text(x)), backbone)
    assert tool(text, ids) == flops.caption_macs(77, projected=77)
    sizes = UNEVEN[0]
    frames = torch.randn(B, sizes.F, sizes.D)
    temporal = FrameTransformer(sizes.D, 4)
    found = tool(temporal, frames, torch.ones(B, sizes.F))
    assert found == B * flops.temporal_macs(sizes)


@pytest.mark.parametrize("tool", TOOLS)
def test_the_package_pays_for_its_safety_check_and_no_more(tool):
    # w · s and w · (G w) are elementwise there; the check for frames that cancel takes
    # one product of F lengths.
    s = UNEVEN[0]
    texts, videos = inputs(s)
    gram = Call(lambda c, f, m: gram_sums(inner_products(c, f, m), gram_matrices(f, m)))
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
    each = flops.folded_decoder_macs(sizes.F, sizes)
    assert found == N * each + 2 * flops.shared_decoder_macs(sizes)


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


def test_the_handles_are_needed():
    t, v = torch.randn(3, 8), torch.randn(5, 6, 8)
    product = Call(lambda a, b: a @ b.mT)
    assert flops.fvcore_default_macs(product, t, v) < 3 * 5 * 6 * 8
    assert flops.fvcore_default_macs(nn.LayerNorm(8), t) > 0


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


def test_published_numbers_that_follow_from_the_ruler():
    # Giga-MACs of 10⁶ pairs against GLSCL, Table I.
    found = {
        name: count.pair / 1e3 for name, count in flops.paper_like_macs(Sizes()).items()
    }
    printed = {
        "CLIP4Clip": (0.5, 0.02),
        "CLIP-ViP": (0.5, 0.02),
        "CenterCLIP": (1.5, 0.05),
        "TS2-Net": (6.1, 0.05),
        "X-CLIP": (220.9, 1.3),
        "X-Pool": (275.0, 0.1),
        "DiCoSA": (0.51, 0.005),
        "GLSCL": (1.0, 0.03),
    }
    assert found.keys() == printed.keys()
    for name, (value, slack) in printed.items():
        assert abs(found[name] - value) <= slack, name


def test_scaling_facts():
    sizes = Sizes()
    table, folded = flops.head_macs(sizes), flops.folded_macs(sizes)
    glscl, xclip = table["GLSCL"], table["X-CLIP"]
    even = flops.break_even_videos(glscl, xclip)
    assert glscl.query + glscl.per_query(even) <= xclip.query + xclip.per_query(even)
    even -= 1
    assert glscl.query + glscl.per_query(even) > xclip.query + xclip.per_query(even)
    with pytest.raises(ValueError, match="No break-even point"):
        flops.break_even_videos(xclip, glscl)
    staged = flops.two_stage(xclip, sizes, shortlist=100)
    assert staged.per_query(10**6) == 10**6 * sizes.D + 100 * xclip.pair
    assert staged.per_query(60) == 60 * (sizes.D + xclip.pair)
    for name, macs in folded.items():
        if name in table:
            assert macs.pair < table[name].pair, name


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
    table = flops.head_macs(Sizes(D=64, F=3))
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
