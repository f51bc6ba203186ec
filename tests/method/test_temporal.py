"""The frame transformer: equal to its equation, blind to padding, a copy of CLIP's."""

import pytest
import torch
from reference import arrays, frame_transformer
from test_gim import features
from torch import nn
from torch.testing import assert_close

from glscl.temporal import Block, FrameTransformer


def module(dim=12, num_heads=3, num_layers=2, max_positions=9):
    torch.manual_seed(0)
    transformer = FrameTransformer(dim, num_heads, num_layers, max_positions).double()
    for parameter in transformer.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return transformer.eval()


@pytest.mark.parametrize(("B", "F"), [(4, 5), (1, 9), (3, 1)])
def test_frames_equal_the_loops(B, F):
    _, frames, mask = features(1, B, F, 12)
    transformer = module()
    found = transformer(frames, mask)
    state = arrays(transformer)
    for b in range(B):
        real = torch.arange(F)[mask[b]].tolist()
        expected = frame_transformer(frames[b].numpy(), real, 3, 2, state)
        assert_close(found[b], torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_padding_does_not_matter_to_real_frames():
    _, frames, mask = features(1, 4, 5, 12)
    transformer = module()
    plain = transformer(frames, mask)[mask]
    other = frames.masked_fill(~mask[:, :, None], 7.0)
    assert torch.equal(transformer(other, mask)[mask], plain)
    longer = torch.cat([frames, torch.ones(4, 3, 12)], dim=1)
    longer_mask = torch.cat([mask, torch.zeros(4, 3, dtype=torch.bool)], dim=1)
    found = transformer(longer, longer_mask)[longer_mask]
    assert_close(found, plain, rtol=0, atol=1e-13)


def test_frames_have_an_order():
    _, frames, mask = features(1, 2, 5, 12)
    mask[:] = True
    transformer = module()
    flipped = transformer(frames.flip(1), mask).flip(1)
    assert (flipped - transformer(frames, mask)).abs().max() > 1e-3


def test_training_and_evaluation_are_the_same():
    _, frames, mask = features(1, 4, 5, 12)
    transformer = module()
    with torch.no_grad():
        still = transformer(frames, mask)
    assert_close(transformer.train()(frames, mask), still, rtol=0, atol=1e-13)


def test_starts_as_the_first_blocks_of_clip():
    torch.manual_seed(1)
    blocks = nn.ModuleList(Block(12, 3) for _ in range(3))
    positions = torch.randn(9, 12)
    transformer = FrameTransformer(12, 3, 2, 9)
    transformer.copy_from_text(blocks, positions)
    assert torch.equal(transformer.positions, positions)
    for own, theirs in zip(transformer.resblocks, blocks, strict=False):
        for name, weight in theirs.state_dict().items():
            assert torch.equal(own.state_dict()[name], weight)
            assert own.state_dict()[name].data_ptr() != weight.data_ptr()


def test_blocks_that_clip_does_not_have_keep_their_start():
    torch.manual_seed(1)
    blocks = nn.ModuleList([Block(12, 3)])
    transformer = FrameTransformer(12, 3, 2, 9)
    before = transformer.resblocks[1].mlp.c_fc.weight.clone()
    transformer.copy_from_text(blocks, torch.randn(9, 12))
    assert torch.equal(transformer.resblocks[1].mlp.c_fc.weight, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_stays_finite_and_close(dtype):
    _, frames, mask = features(1, 4, 5, 12, dtype=torch.float32)
    transformer = module().float()
    plain = transformer(frames, mask)
    with torch.autocast("cpu", dtype=dtype):
        from_single = transformer(frames, mask)
        from_half = transformer(frames.to(dtype), mask)
    assert_close(from_single.float(), plain, rtol=0, atol=5e-2)
    assert_close(from_half.float(), plain, rtol=0, atol=5e-2)


def test_bad_input_is_named():
    _, frames, mask = features(1, 4, 5, 12)
    transformer = module()
    with pytest.raises(ValueError, match=r"frames: axis 2 \(D\) must have size 12"):
        transformer(frames[..., :6], mask)
    with pytest.raises(ValueError, match=r"frame_mask: axis 1 \(F\)"):
        transformer(frames, mask[:, :4])
    with pytest.raises(ValueError, match="at most 9 frames, one for each position"):
        transformer(frames.repeat(1, 2, 1), mask.repeat(1, 2))
    with pytest.raises(ValueError, match="CLIP's positional embedding"):
        transformer.copy_from_text(transformer.resblocks, torch.zeros(9, 6))
