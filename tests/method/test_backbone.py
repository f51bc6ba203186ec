import copy
import hashlib
import pickle

import pytest
import torch
from safetensors.torch import save_file

from glscl.backbone import (
    MINI_CONFIG,
    Backbone,
    _published_archives,
    backbone_config,
    load_backbone,
    open_clip,
)
from glscl.util.state_dicts import read_state_dict

TINY = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 8,
        "width": 32,
        "layers": 2,
        "head_width": 16,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 60,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return Backbone("tiny", TINY).eval()


@pytest.fixture(scope="module")
def captions():
    ids = torch.zeros(3, 10, dtype=torch.long)
    for row, words in enumerate(([5, 0, 7], [9], [3, 4, 5, 6, 7, 8, 9, 10])):
        ids[row, : len(words) + 2] = torch.tensor([58, *words, 59])
    lengths = torch.tensor([5, 3, 10])
    return ids, torch.arange(10) < lengths[:, None]


@torch.no_grad()
def test_sentence_features_equal_open_clips(tiny, captions):
    ids, mask = captions
    padded = torch.nn.functional.pad(ids, (0, 6))
    expected = tiny.clip.encode_text(padded)
    for out in (tiny.encode_text(ids), tiny.encode_text(ids, mask)):
        torch.testing.assert_close(out.captions, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_sentence_feature_is_the_token_at_eos(tiny, captions):
    ids, mask = captions
    out = tiny.encode_text(ids, mask)
    last = mask.sum(dim=1) - 1
    assert torch.equal(out.captions, out.tokens[torch.arange(3), last])


@torch.no_grad()
def test_the_key_mask_changes_padded_tokens_only(tiny, captions):
    ids, mask = captions
    plain, masked = tiny.encode_text(ids).tokens, tiny.encode_text(ids, mask).tokens
    torch.testing.assert_close(plain[mask], masked[mask], rtol=1e-5, atol=1e-5)
    assert (plain - masked)[~mask].abs().max() > 1e-3


@torch.no_grad()
def test_frames_and_patches_come_from_one_pass(tiny):
    pixels = torch.randn(2, 3, 32, 32)
    out = tiny.encode_image_with_patches(pixels)
    assert out.shape == (2, 1 + 16, 24)
    torch.testing.assert_close(out[:, 0], tiny.encode_image(pixels))
    torch.testing.assert_close(out[:, 0], tiny.clip.encode_image(pixels))


def test_wrong_sizes_name_the_axis(tiny, captions):
    with pytest.raises(ValueError, match=r"pixels: axis 2 \(H\).*size 32, got 64"):
        tiny.encode_image(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="takes 16"):
        tiny.encode_text(torch.zeros(1, 17, dtype=torch.long))
    with pytest.raises(ValueError, match=r"token_mask: axis 1 \(L\)"):
        tiny.encode_text(captions[0], captions[1][:, :4])


def test_mini_tokens_cut_at_eos_and_mask_padding():
    backbone = load_backbone("mini", pretrained=None)
    ids, mask = backbone.tokenize(["a red circle moves left", "a " * 40], 8)
    end = ids.max()
    assert ids.shape == (2, 8)
    assert ids[1, -1] == end
    assert mask[1].all()
    assert torch.equal(mask.sum(dim=1) - 1, ids.argmax(dim=1))
    assert not mask[0, -1] or ids[0, -1] == end
    with pytest.raises(ValueError, match="between 3 and the context length 32"):
        backbone.tokenize(["a"], 77)
    with pytest.raises(ValueError, match="at least one caption"):
        backbone.tokenize([], 8)


def test_an_exclamation_mark_is_not_padding():
    """Its id in CLIP's vocabulary is 0, the number that also pads."""
    backbone = load_backbone("mini", pretrained=None)
    ids, mask = backbone.tokenize(["stop !"], 32)
    assert mask[0].sum() == ids[0].argmax() + 1


def test_unknown_names_and_towers_are_refused():
    with pytest.raises(ValueError, match="Unknown backbone 'ViT-Z'"):
        backbone_config("ViT-Z")
    with pytest.raises(ValueError, match="text tower other than CLIP's"):
        backbone_config("ViT-B-16-SigLIP")
    with pytest.raises(ValueError, match="has built-in weights"):
        load_backbone("RN50", "builtin")
    with pytest.raises(ValueError, match="use 'ViT-B-32-quickgelu'"):
        load_backbone("ViT-B-32", "openai")


def test_missing_weights_list_the_known_tags():
    with pytest.raises(FileNotFoundError, match="neither a file nor one of"):
        load_backbone("mini", "nowhere.safetensors")


@pytest.fixture
def mini_state():
    torch.manual_seed(3)
    return copy.deepcopy(load_backbone("mini", None).clip.state_dict())


@pytest.mark.parametrize("form", ["safetensors", "pt", "nested", "parallel", "half"])
def test_local_weights_load_from_every_format(tmp_path, mini_state, form):
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    exact = {k: v.half() if form == "half" else v for k, v in mini_state.items()}
    if form == "safetensors":
        save_file(exact, path)
    elif form == "nested":
        torch.save({"epoch": 3, "state_dict": exact}, path)
    elif form == "parallel":
        torch.save({f"module.{k}": v for k, v in exact.items()}, path)
    else:
        torch.save(exact, path)
    loaded = load_backbone("mini", path).clip.state_dict()
    for key, value in exact.items():
        assert torch.equal(loaded[key], value.float()), key


@pytest.fixture
def archive(tmp_path, mini_state):
    """OpenAI ships TorchScript with three extra sizes in half precision."""

    class Archive(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for key in ("input_resolution", "context_length", "vocab_size"):
                self.register_buffer(key, torch.tensor(7))

        def forward(self, x):
            return x

    archive = Archive()
    for key, value in mini_state.items():
        module = archive
        *parents, leaf = key.split(".")
        for name in parents:
            if not hasattr(module, name):
                module.add_module(name, torch.nn.Module())
            module = getattr(module, name)
        module.register_buffer(leaf, value.half())
    path = tmp_path / "openai.pt"
    torch.jit.save(torch.jit.trace(archive, torch.zeros(1)), path)
    return path


def publish(monkeypatch, path):
    """Take the archive at ``path`` for one that OpenAI published, of a QuickGELU model."""
    address = f"https://openai/{hashlib.sha256(path.read_bytes()).hexdigest()}/clip.pt"
    monkeypatch.setattr(open_clip(), "get_pretrained_url", lambda *_: address)


def test_a_published_archive_of_openai_loads(archive, mini_state, monkeypatch):
    publish(monkeypatch, archive)
    monkeypatch.setitem(MINI_CONFIG, "quick_gelu", True)
    loaded = load_backbone("mini", archive).clip.state_dict()
    for key, value in mini_state.items():
        assert torch.equal(loaded[key], value.half().float()), key


def test_other_torchscript_is_refused_before_it_is_loaded(archive, monkeypatch):
    monkeypatch.setattr(
        torch.jit, "load", lambda *_, **__: pytest.fail("it was loaded")
    )
    with pytest.raises(
        ValueError, match="is a TorchScript archive, which can run code"
    ):
        load_backbone("mini", archive)
    with pytest.raises(
        ValueError, match="is a TorchScript archive, which can run code"
    ):
        read_state_dict(archive)


@pytest.mark.parametrize("form", ["archive", "state dict"])
def test_openai_weights_without_quickgelu_are_refused(
    archive, mini_state, tmp_path, monkeypatch, form
):
    publish(monkeypatch, archive)
    path = archive
    if form == "state dict":
        path = tmp_path / "state.pt"
        sizes = ("input_resolution", "context_length", "vocab_size")
        torch.save({**mini_state, **{k: torch.tensor(7) for k in sizes}}, path)
    with pytest.raises(ValueError, match="need QuickGELU: use 'mini-quickgelu'"):
        load_backbone("mini", path)


def test_the_archives_of_openai_are_known():
    (published,) = _published_archives("ViT-B-32-quickgelu")
    assert published.startswith("40d365715913c9da")
    assert _published_archives("mini") == []


class Payload:
    """Runs code when unpickled by a careless reader."""

    def __reduce__(self):
        return (pytest.fail, ("the payload ran",))


@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_a_pickled_payload_is_refused_and_not_run(tmp_path, suffix):
    path = tmp_path / f"evil{suffix}"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ValueError, match="Cannot read weights"):
        read_state_dict(path)
    torch.save({"w": Payload()}, path)
    with pytest.raises(ValueError, match="Cannot read weights"):
        read_state_dict(path)


def test_weights_of_another_model_name_the_entry(tmp_path, mini_state):
    short = dict(mini_state)
    del short["ln_final.weight"]
    torch.save(short, tmp_path / "short.pt")
    with pytest.raises(ValueError, match=r"lacks 'ln_final\.weight'"):
        load_backbone("mini", tmp_path / "short.pt")
    torch.save({**mini_state, "extra": torch.zeros(1)}, tmp_path / "long.pt")
    with pytest.raises(ValueError, match="unknown 'extra'"):
        load_backbone("mini", tmp_path / "long.pt")
    wide = {**mini_state, "ln_final.weight": torch.ones(64)}
    torch.save(wide, tmp_path / "wide.pt")
    with pytest.raises(ValueError, match=r"another backbone.*shape \(64,\)"):
        load_backbone("mini", tmp_path / "wide.pt")


def test_a_failed_download_says_what_to_do(monkeypatch):
    def offline(*_, **__):
        raise TimeoutError("no route")

    monkeypatch.setattr(open_clip(), "download_pretrained", offline)
    with pytest.raises(ConnectionError, match="give the path of a local file"):
        load_backbone("RN50-quickgelu", "openai")


def test_openai_names_carry_quickgelu():
    assert backbone_config("ViT-B-32-quickgelu")["quick_gelu"] is True
    assert "quick_gelu" not in MINI_CONFIG


def test_building_a_backbone_does_not_warn(recwarn):
    load_backbone("mini", pretrained=None)
    assert [str(w.message) for w in recwarn] == []


def test_captions_may_be_token_ids():
    backbone = load_backbone("mini")
    texts = ["a red circle moves", "a star", "a blue square moves to the left slowly"]
    ids, mask = backbone.tokenize(texts, 6)
    # Whole captions, of which the last one is longer than six.
    long, real = backbone.tokenize(texts, 20)
    captions = [tuple(row[keep].tolist()) for row, keep in zip(long, real, strict=True)]
    assert max(map(len, captions)) > 6
    again, same_mask = backbone.tokenize(captions, 6)
    assert torch.equal(again, ids)
    assert torch.equal(same_mask, mask)
    for wrong in ((1, 2, 1), (3,), (5, 10**6), (-1, 4)):
        with pytest.raises(ValueError, match=r"must have ids below .* and end in"):
            backbone.tokenize([wrong], 6)


def test_sentences_need_a_backbone_whose_tokenizer_is_known():
    backbone = Backbone("authors-clip", backbone_config("mini"))
    with pytest.raises(ValueError, match=r"'authors-clip' .* give captions as token"):
        backbone.tokenize(["a star"], 6)
    assert backbone.tokenize([(1, 2)], 6)[0].tolist() == [[1, 2, 0, 0, 0, 0]]
