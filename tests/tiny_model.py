"""A GLSCL over a CLIP of toy size, its inputs, and its weights as the authors name them."""

import torch

from glscl import GLSCL
from glscl.backbone import Backbone
from glscl.config import ModelConfig
from glscl.weights import authors_name, authors_shared_name, own_names

TINY = {
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 16,
        "patch_size": 8,
        "width": 64,
        "head_width": 64,
        "layers": 1,
    },
    "text_cfg": {
        "context_length": 10,
        "vocab_size": 30,
        "width": 64,
        "heads": 1,
        "layers": 2,
    },
}


def tiny_model(**changes):
    """A GLSCL over a CLIP of toy size, random, float64, in evaluation mode."""
    torch.manual_seed(0)
    settings = {"backbone": "tiny", "pretrained": None, "temporal_layers": 3}
    config = ModelConfig(**{**settings, "num_queries": 3, **changes})
    model = GLSCL(Backbone("tiny", TINY), config).double()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model.eval()


def text_batch(A=5, L=7):
    """Token ids with BOS 28, EOS 29, zero padding, and their mask."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(1, 28, (A, L), generator=generator)
    words[:, 0] = 28
    end = 2 + (L - 3 - torch.arange(A)) % (L - 2)
    mask = torch.arange(L) <= end[:, None]
    words = words.where(mask, 0)
    words[torch.arange(A), end] = 29
    return words, mask


def video_batch(B=4, F=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(B, F, 3, 16, 16, generator=generator, dtype=dtype)
    real = 1 + (F - 1 - torch.arange(B)) % F
    mask = torch.arange(F) < real[:, None]
    return pixels * mask[:, :, None, None, None], mask


def authors_state(model, share):
    """The weights of a model under the released names, with those no score uses."""
    name_of = authors_shared_name if share else authors_name
    weights = model.state_dict()
    state = {name_of(name): weights[name].half() for name in own_names(model)}
    state["weight_fc.0.weight"] = torch.zeros(2, 2)
    state["decoder_layer_noun.linear1.weight"] = torch.zeros(2, 2)
    state["decoder_layer_spatial.norm1.bias"] = torch.zeros(2)
    if share:
        state["noun_queries"] = torch.zeros(3, 64)
        state["transformer_decoder_spatial.layers.0.norm1.bias"] = torch.zeros(2)
    return state
