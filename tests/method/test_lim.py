"""The LIM: equal to its equation, maps that are the true ones, masks, one product."""

import pytest
import torch
from reference import arrays, decoder, local
from torch.nn.functional import normalize
from torch.testing import assert_close

from glscl.lim import DECODED_AT_ONCE, LocalInteraction, local_similarity


def module(dim=12, num_queries=3, num_layers=2, num_heads=4, dropout=0.1, seed=0):
    """A module in float64 with layers that differ, in evaluation mode."""
    torch.manual_seed(seed)
    lim = LocalInteraction(dim, num_queries, num_layers, num_heads, dropout).double()
    for parameter in lim.decoder.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return lim.eval()


def tokens_and_mask(N=4, M=5, D=12, seed=1):
    """Tokens, and a mask with a full, two cut and a single-token row."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(N, M, D, generator=generator, dtype=torch.float64)
    real = 1 + (M - 1 - 2 * torch.arange(N)) % M
    return tokens, torch.arange(M) < real[:, None]


def unit_concepts(N, Q=3, D=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    concepts = torch.randn(N, Q, D, generator=generator, dtype=torch.float64)
    return normalize(concepts, dim=-1)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("N", "M"), [(4, 5), (1, 7), (3, 1)])
def test_concepts_and_maps_equal_the_loops(masked, N, M):
    lim = module()
    tokens, mask = tokens_and_mask(N, M)
    given = mask if masked else None
    concepts, maps = lim(tokens, given), lim.attention(tokens, given)
    state = arrays(lim)
    for n in range(N):
        real = torch.arange(M)[mask[n]].tolist() if masked else range(M)
        expected, expected_maps = decoder(tokens[n].numpy(), real, 4, state)
        assert_close(concepts[n], torch.from_numpy(expected), rtol=0, atol=1e-12)
        assert_close(maps[n], torch.from_numpy(expected_maps), rtol=0, atol=1e-12)


def test_shapes_unit_norm_and_maps_that_sum_to_one():
    tokens, mask = tokens_and_mask()
    lim = module()
    concepts, maps = lim(tokens, mask), lim.attention(tokens, mask)
    assert concepts.shape == (4, 3, 12)
    assert maps.shape == (4, 2, 4, 3, 5)
    assert_close(concepts.norm(dim=-1), torch.ones(4, 3, dtype=torch.float64))
    assert_close(maps.sum(-1), torch.ones(4, 2, 4, 3, dtype=torch.float64))
    assert (maps.movedim(-1, 1)[~mask] == 0).all()


def test_masked_padding_does_not_matter():
    lim = module()
    tokens, mask = tokens_and_mask()
    longer = torch.cat([tokens, torch.randn(4, 3, 12, dtype=torch.float64)], dim=1)
    longer_mask = torch.cat([mask, torch.zeros(4, 3, dtype=torch.bool)], dim=1)
    assert_close(lim(longer, longer_mask), lim(tokens, mask), rtol=0, atol=1e-13)


def test_padding_without_a_mask_does_matter():
    lim = module()
    tokens, _ = tokens_and_mask()
    longer = torch.cat([tokens, torch.zeros(4, 3, 12, dtype=torch.float64)], dim=1)
    assert (lim(longer) - lim(tokens)).abs().max() > 1e-3


def test_tokens_have_no_order_and_items_no_influence_on_each_other():
    lim = module()
    tokens, mask = tokens_and_mask()
    n, m = torch.randperm(4), torch.randperm(5)
    concepts = lim(tokens, mask)
    shuffled = lim(tokens[n][:, m], mask[n][:, m])
    assert_close(shuffled, concepts[n], rtol=0, atol=1e-13)
    assert_close(lim(tokens[2:3], mask[2:3]), concepts[2:3], rtol=0, atol=1e-13)


def test_permuting_queries_permutes_concepts():
    lim = module()
    tokens, mask = tokens_and_mask()
    before = lim(tokens, mask)
    order = torch.tensor([2, 0, 1])
    lim.queries.data = lim.queries.data[order]
    assert_close(lim(tokens, mask), before[:, order], rtol=0, atol=1e-13)


def test_dropout_acts_in_training_only_and_never_on_the_maps():
    lim = module(dropout=0.5)
    tokens, mask = tokens_and_mask()
    still, maps = lim(tokens, mask), lim.attention(tokens, mask)
    assert torch.equal(lim(tokens, mask), still)
    lim.train()
    assert not torch.allclose(lim(tokens, mask), still)
    assert torch.equal(lim.attention(tokens, mask), maps)
    assert lim.training
    assert lim.decoder.layers[0].dropout1.training


def test_the_training_mode_is_restored_when_attention_fails(monkeypatch):
    lim = module().train()
    layer = lim.decoder.layers[1]

    def fails(*_, **__):
        assert not layer.training
        raise RuntimeError("out of memory")

    monkeypatch.setattr(layer.multihead_attn, "forward", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        lim.attention(*tokens_and_mask())
    assert all(part.training for part in lim.modules())


def test_a_caller_can_choose_the_decoder_or_the_folded_form():
    lim = module(dropout=0.5)
    tokens, mask = tokens_and_mask()
    with_gradient = lim(tokens, mask)
    assert torch.equal(lim(tokens, mask, method="decoder"), with_gradient)
    with torch.no_grad():
        automatic = lim(tokens, mask)
        assert torch.equal(lim(tokens, mask, method="folded"), automatic)
        decoder = lim(tokens, mask, method="decoder")
    assert_close(decoder, automatic, rtol=0, atol=1e-13)


def test_the_folded_form_refuses_dropout_and_gradients():
    tokens, mask = tokens_and_mask()
    refused = "^method='folded' has neither dropout nor gradients: call eval"
    with pytest.raises(ValueError, match=refused):
        module()(tokens, mask, method="folded")
    with torch.no_grad():
        with pytest.raises(ValueError, match=refused):
            module(dropout=0.5).train()(tokens, mask, method="folded")
        lim = module(dropout=0.0).train()
        assert_close(
            lim(tokens, mask, method="folded"), lim(tokens, mask), rtol=0, atol=1e-13
        )
    with pytest.raises(ValueError, match="'decoder' or 'folded', got 'fast'"):
        lim(tokens, mask, method="fast")


def test_training_and_evaluation_agree_without_dropout():
    lim = module(dropout=0.0)
    tokens, mask = tokens_and_mask()
    with torch.no_grad():
        still = lim(tokens, mask)
    assert_close(lim.train()(tokens, mask), still, rtol=0, atol=1e-13)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("N", "M"), [(1, 5), (3, 1), (2 * DECODED_AT_ONCE["cpu"] + 3, 7)]
)
def test_the_folded_decoder_is_the_decoder(masked, N, M):
    lim = module(num_layers=3)
    for parameter in lim.decoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases that are not zero
    tokens, mask = tokens_and_mask(N, M)
    given = mask if masked else None
    with torch.no_grad():
        folded = lim(tokens, given)
    assert_close(folded, lim(tokens, given), rtol=0, atol=1e-13)


def test_gradients_are_true():
    lim = module(dim=4, num_queries=2, num_layers=1, num_heads=2)
    tokens, mask = tokens_and_mask(N=2, M=3, D=4)
    tokens.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, _: lim(x, mask), (tokens, lim.queries))


def test_queries_start_between_zero_and_one_and_layers_start_equal():
    torch.manual_seed(3)
    lim = LocalInteraction(64)
    assert lim.queries.shape == (8, 64)
    assert 0 <= lim.queries.min() < 0.05
    assert 0.95 < lim.queries.max() < 1
    first, *others = lim.decoder.layers
    for layer in others:
        for own, theirs in zip(first.parameters(), layer.parameters(), strict=True):
            assert torch.equal(own, theirs)


def test_local_similarity_equals_the_loops():
    text, video = unit_concepts(4, seed=0), unit_concepts(7, seed=1)
    expected = local(text.numpy(), video.numpy())
    found = local_similarity(text, video)
    assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-14)
    assert_close(local_similarity(text, text).diagonal(), torch.ones(4).double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_folded_decoder_follows_autocast(dtype):
    lim = module(num_layers=3).float()
    tokens, mask = tokens_and_mask()
    tokens = tokens.float()
    with torch.no_grad():
        exact = lim(tokens, mask)
        with torch.autocast("cpu", dtype=dtype):
            found = lim(tokens, mask)
    assert found.dtype == torch.float32
    assert_close(found, exact, rtol=0, atol=0.03)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_stays_finite_and_close(dtype):
    lim = module().float()
    tokens, mask = tokens_and_mask()
    tokens = tokens.float()
    plain = lim(tokens, mask)
    with torch.autocast("cpu", dtype=dtype):
        concepts = lim(tokens, mask)
        scores = local_similarity(concepts, concepts)
    assert concepts.dtype == scores.dtype == torch.float32
    assert_close(concepts, plain, rtol=0, atol=5e-2)
    assert_close(concepts.norm(dim=-1), torch.ones(4, 3))


def test_bad_input_is_named():
    lim = module()
    tokens, mask = tokens_and_mask()
    with pytest.raises(ValueError, match=r"tokens: axis 2 \(D\) must have size 12"):
        lim(tokens[..., :10])
    with pytest.raises(ValueError, match=r"mask: axis 1 \(M\) must have size 5"):
        lim(tokens, mask[:, :4])
    empty = mask.clone()
    empty[1] = False
    with pytest.raises(ValueError, match="mask: row 1 is all False"):
        lim(tokens, empty)
    with pytest.raises(ValueError, match="num_heads must divide the 12 channels"):
        LocalInteraction(12, num_heads=5)
    text, video = unit_concepts(4), unit_concepts(5)
    with pytest.raises(ValueError, match=r"video_concepts: axis 1 \(Q\)"):
        local_similarity(text, video[:, :2])
    text[2, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="text_concepts: row 2 has NaN"):
        local_similarity(text, video)
