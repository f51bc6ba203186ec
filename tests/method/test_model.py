"""GLSCL as a whole: its parts, its variants, its files, the authors' files."""

import json
from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from tiny_model import TINY, authors_state, text_batch, tiny_model, video_batch
from torch import nn
from torch.testing import assert_close

from glscl import EERCF, GLSCL
from glscl.backbone import Backbone, backbone_config
from glscl.config import EERCFConfig, ModelConfig
from glscl.gim import global_similarity, mean_similarity
from glscl.lim import local_similarity
from glscl.model import TextFeatures, VideoFeatures
from glscl.weights import (
    authors_backbone,
    authors_config,
    authors_name,
    authors_shared_name,
)

SHARING = [(True, True), (True, False), (False, True), (False, False)]


def similarity(model, text=None, video=None):
    with torch.no_grad():
        return model.similarity(
            model.encode_text(*(text or text_batch())),
            model.encode_video(*(video or video_batch())),
        )


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize(("A", "B", "F"), [(5, 4, 3), (1, 4, 3), (5, 1, 3), (2, 3, 1)])
def test_similarity_equals_the_loops(mask_padding, A, B, F):
    model = tiny_model(mask_padding=mask_padding, temperature=2.0, local_weight=0.7)
    text, video = text_batch(A), video_batch(B, F)
    with torch.no_grad():
        captions, tokens, token_mask, _ = model.encode_text(*text)
        frames, frame_mask, _ = model.encode_video(*video)
    expected, _ = reference.gim(
        captions.numpy(), frames.numpy(), frame_mask.numpy(), 2.0
    )
    state = reference.arrays(model.lim_video)

    def concepts(items, mask):
        rows = [m if mask_padding else torch.ones_like(m) for m in mask]
        reals = [torch.arange(len(row))[row].tolist() for row in rows]
        found = [
            reference.decoder(item.numpy(), real, 8, state)[0]
            for item, real in zip(items, reals, strict=True)
        ]
        return np.stack(found)

    local = reference.local(concepts(tokens, token_mask), concepts(frames, frame_mask))
    assert_close(
        similarity(model, text, video),
        torch.from_numpy(expected + 0.7 * local),
        rtol=0,
        atol=1e-12,
    )


def test_features_have_the_shapes_of_the_notation():
    model = tiny_model()
    text = model.encode_text(*text_batch())
    video = model.encode_video(*video_batch())
    assert isinstance(text, TextFeatures)
    assert isinstance(video, VideoFeatures)
    assert [tuple(x.shape) for x in text] == [(5, 64), (5, 7, 64), (5, 7), (5, 3, 64)]
    assert [tuple(x.shape) for x in video] == [(4, 3, 64), (4, 3), (4, 3, 64)]
    assert model.similarity(text, video).shape == (5, 4)


def test_padding_does_not_matter_when_it_is_masked():
    model = tiny_model(mask_padding=True)
    ids, token_mask = text_batch()
    pixels, frame_mask = video_batch()
    longer_text = (
        nn.functional.pad(ids, (0, 3)),
        nn.functional.pad(token_mask, (0, 3)),
    )
    noise = torch.randn(4, 2, 3, 16, 16, dtype=torch.float64)
    longer_video = (
        torch.cat([pixels, noise], dim=1),
        nn.functional.pad(frame_mask, (0, 2)),
    )
    assert_close(
        similarity(model, longer_text, longer_video),
        similarity(model),
        rtol=0,
        atol=1e-12,
    )


def test_padding_matters_in_the_lim_as_released():
    model = tiny_model(mask_padding=False)
    ids, token_mask = text_batch()
    longer = (nn.functional.pad(ids, (0, 3)), nn.functional.pad(token_mask, (0, 3)))
    change = similarity(model, longer) - similarity(model)
    assert change.abs().max() > 1e-3


def test_permuting_captions_and_videos_permutes_scores():
    model = tiny_model()
    ids, token_mask = text_batch()
    pixels, frame_mask = video_batch()
    a, b = torch.randperm(5), torch.randperm(4)
    shuffled = similarity(model, (ids[a], token_mask[a]), (pixels[b], frame_mask[b]))
    assert_close(shuffled, similarity(model)[a][:, b], rtol=0, atol=1e-12)


def test_evaluation_has_no_dropout_and_training_has():
    model = tiny_model(dropout=0.5)
    still = similarity(model)
    assert torch.equal(similarity(model), still)
    assert not torch.allclose(similarity(model.train()), still)


def test_training_and_evaluation_agree_without_dropout():
    model = tiny_model(dropout=0.0)
    still = similarity(model)
    text = model.train().encode_text(*text_batch())
    found = model.similarity(text, model.encode_video(*video_batch()))
    assert_close(found, still, rtol=0, atol=1e-12)


def test_an_item_is_decoded_once(monkeypatch):
    model = tiny_model()
    decoded = []
    forward = type(model.lim_video).forward

    def counted(self, tokens, mask=None):
        decoded.append(len(tokens))
        return forward(self, tokens, mask)

    monkeypatch.setattr(type(model.lim_video), "forward", counted)
    text, video = model.encode_text(*text_batch()), model.encode_video(*video_batch())
    model.similarity(text, video)
    model.loss(TextFeatures(*(x[:4] for x in text)), video)
    assert decoded == [5, 4]
    bare = model.similarity(text._replace(concepts=None), video._replace(concepts=None))
    assert decoded == [5, 4, 5, 4]
    assert_close(bare, model.similarity(text, video))


def test_kept_frame_features_and_forward_give_the_same_features():
    model = tiny_model()
    (ids, token_mask), (pixels, frame_mask) = text_batch(), video_batch()
    whole = model.encode_video(pixels, frame_mask)
    kept = model.encode_frames(pixels)
    assert_close(model.encode_video_features(kept, frame_mask), whole)
    text, from_pixels = model(ids, token_mask, pixels, frame_mask)
    assert_close(from_pixels, whole)
    assert_close(text, model.encode_text(ids, token_mask))
    assert_close(model(ids, token_mask, kept, frame_mask)[1], whole)


def test_variants_leave_out_what_they_name():
    text, video = text_batch(), video_batch()
    with torch.no_grad():
        model = tiny_model(pooling="mean", local=False)
        t, v = model.encode_text(*text), model.encode_video(*video)
        assert t.concepts is None
        assert v.concepts is None
        assert not any(name.startswith("lim") for name, _ in model.named_parameters())
        assert_close(
            model.similarity(t, v), mean_similarity(t.captions, v.frames, v.mask)
        )
        model = tiny_model(temporal_layers=0)
        assert model.temporal is None
        t, v = model.encode_text(*text), model.encode_video(*video)
        assert_close(v.frames, model.encode_frames(video[0]))
        expected = global_similarity(t.captions, v.frames, v.mask)
        expected = expected + 0.5 * local_similarity(t.concepts, v.concepts)
        assert_close(model.similarity(t, v), expected)


@pytest.mark.parametrize(("share_queries", "share_decoder"), SHARING)
def test_sharing_shares_exactly_what_it_names(share_queries, share_decoder):
    model = tiny_model(share_queries=share_queries, share_decoder=share_decoder)
    text, video = model.lim_text, model.lim_video
    assert (text.queries is video.queries) == share_queries
    assert (text.decoder is video.decoder) == share_decoder
    tokens = torch.randn(2, 3, 64, dtype=torch.float64)
    same = torch.allclose(text(tokens), video(tokens))
    assert same == (share_queries and share_decoder)


def test_loss_is_the_sum_of_its_named_parts():
    model = tiny_model(icl_weight=0.3, alpha=0.2, idl_margin=1.5)
    text, video = model.encode_text(*text_batch(4)), model.encode_video(*video_batch())
    losses = model.loss(text, video)
    assert_close(losses.total, losses.info_nce + losses.icl + losses.idl)
    v, t = video.concepts.detach().numpy(), text.concepts.detach().numpy()
    icl = reference.inter_consistency(v, t, model.config.beta, 0.75, 3)
    assert losses.icl.item() == pytest.approx(0.3 * icl, abs=1e-12)
    idl = reference.intra_diversity(v, 1.5)
    assert losses.idl.item() == pytest.approx(0.2 * idl, abs=1e-12)
    kappa = model.kappa.item()
    scores = kappa * model.similarity(text, video).detach().numpy()
    expected = reference.info_nce(scores)
    assert losses.info_nce.item() == pytest.approx(expected, abs=1e-12)


def test_loss_without_the_lim_is_the_contrastive_one():
    model = tiny_model(local=False)
    text, video = model.encode_text(*text_batch(4)), model.encode_video(*video_batch())
    losses = model.loss(text, video)
    assert losses.total == losses.info_nce > 0
    assert losses.icl == losses.idl == 0


def test_every_weight_gets_a_gradient():
    model = tiny_model(idl_margin=1.5)
    model.loss(
        model.encode_text(*text_batch(4)), model.encode_video(*video_batch())
    ).total.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_kappa_is_kept_at_one_hundred():
    model = tiny_model()
    model.backbone.logit_scale.data.fill_(7.0)
    model.clamp_logit_scale()
    assert model.kappa.item() == pytest.approx(100)
    model.backbone.logit_scale.data.fill_(2.0)
    model.clamp_logit_scale()
    assert model.kappa.item() == pytest.approx(torch.e**2)


def test_the_frame_transformer_starts_as_clips_text_transformer():
    torch.manual_seed(0)
    backbone = Backbone("tiny", TINY)
    temporal = GLSCL(backbone, ModelConfig(temporal_layers=2)).temporal
    clip = backbone.clip
    assert torch.equal(temporal.positions, clip.positional_embedding)
    for own, theirs in zip(temporal.resblocks, clip.transformer.resblocks, strict=True):
        assert torch.equal(own.mlp.c_fc.weight, theirs.mlp.c_fc.weight)
        assert torch.equal(own.attn.in_proj_weight, theirs.attn.in_proj_weight)


def test_positions_of_frames_start_with_the_deviation_that_was_asked_for():
    config = ModelConfig("tiny", None, temporal_layers=2, position_std=1.0)
    wide = {**TINY, "text_cfg": {**TINY["text_cfg"], "context_length": 200}}
    model = GLSCL(Backbone("tiny", wide), config)
    assert model.temporal.positions.std().item() == pytest.approx(1.0, rel=0.05)
    plain = GLSCL(Backbone("tiny", wide), replace(config, position_std=None))
    assert plain.temporal.positions.std() < 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_stays_finite_and_close(dtype):
    model = tiny_model(dropout=0.0).float()
    text, video = text_batch(4), video_batch(dtype=torch.float32)
    plain = similarity(model, text, video)
    with torch.autocast("cpu", dtype=dtype):
        found = model.similarity(model.encode_text(*text), model.encode_video(*video))
        losses = model.loss(model.encode_text(*text), model.encode_video(*video))
    losses.total.backward()
    assert found.dtype == losses.total.dtype == torch.float32
    assert_close(found, plain, rtol=0, atol=3e-2)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_bad_input_is_named():
    model = tiny_model()
    ids, token_mask = text_batch()
    pixels, frame_mask = video_batch()
    with pytest.raises(ValueError, match=r"token_mask: axis 1 \(L\) must have size 7"):
        model.encode_text(ids, token_mask[:, :6])
    empty = token_mask.clone()
    empty[3] = False
    with pytest.raises(ValueError, match="token_mask: row 3 is all False"):
        model.encode_text(ids, empty)
    empty = frame_mask.clone()
    empty[1] = False
    with pytest.raises(ValueError, match="frame_mask: row 1 is all False"):
        model.encode_video(pixels, empty)
    with pytest.raises(ValueError, match="pixels must have the 5 axes"):
        model.encode_frames(pixels[0])
    with pytest.raises(ValueError, match=r"frame_features: axis 2 \(D\)"):
        model.encode_video_features(torch.zeros(4, 3, 32), frame_mask)
    text, video = model.encode_text(ids, token_mask), model.encode_video(*video_batch())
    with pytest.raises(
        ValueError, match=r"video_concepts: axis 0 \(A\)|logits: axis 1"
    ):
        model.loss(text, video)
    broken = pixels.clone()
    broken[2, 0] = float("nan")
    with pytest.raises(ValueError, match="frames: row 2 has NaN"):
        model.similarity(text, model.encode_video(broken, frame_mask))


def test_towers_of_different_width_need_no_temporal_layers():
    config = {**TINY, "embed_dim": 32}
    with pytest.raises(ValueError, match="use temporal_layers=0"):
        GLSCL(Backbone("tiny", config), ModelConfig())
    GLSCL(Backbone("tiny", config), ModelConfig(temporal_layers=0))


def test_presets_build_models_and_refuse_unknown_names():
    torch.manual_seed(0)
    model = GLSCL.from_preset("mini", pretrained=None, num_queries=4)
    assert model.backbone.name == "mini"
    assert model.lim_video.queries.shape == (4, 128)
    assert not model.training
    with pytest.raises(ValueError, match="Unknown preset 'msrvvt'"):
        GLSCL.from_preset("msrvvt")
    with pytest.raises(ValueError, match="Unknown setting 'queries'"):
        GLSCL.from_preset("mini", queries=4)


@pytest.mark.parametrize(("share_queries", "share_decoder"), SHARING)
def test_a_saved_model_comes_back_the_same(tmp_path, share_queries, share_decoder):
    model = tiny_model(share_queries=share_queries, share_decoder=share_decoder)
    model.float().save(tmp_path / "model")
    loaded = GLSCL.load(tmp_path / "model")
    assert loaded.config == model.config
    assert not loaded.training
    batch = text_batch(), video_batch(dtype=torch.float32)
    assert torch.equal(similarity(loaded, *batch), similarity(model, *batch))
    assert (loaded.lim_text.queries is loaded.lim_video.queries) == share_queries
    assert (loaded.lim_text.decoder is loaded.lim_video.decoder) == share_decoder


def test_a_saved_model_is_safetensors_and_json_with_its_backbone(tmp_path):
    model = tiny_model()
    model.save(tmp_path)
    model.save(tmp_path)
    weights, config = sorted(tmp_path.iterdir(), key=lambda file: file.suffix)[::-1]
    assert (weights.suffix, config.name) == (".safetensors", "config.json")
    content = json.loads(config.read_text())
    assert content["backbone"]["name"] == "tiny"
    assert content["backbone"]["quick_gelu"] is True
    assert content["model"]["temperature"] == 3.0
    assert content["weights"] == weights.name


def test_a_failed_save_leaves_the_old_model_whole(tmp_path, monkeypatch):
    model = tiny_model().float()
    model.save(tmp_path)
    batch = text_batch(), video_batch(dtype=torch.float32)
    before = similarity(model, *batch)
    model.lim_video.queries.data += 1

    def full(*_, **__):
        raise OSError("no space left")

    for step in ("safetensors.torch.save_file", "os.replace", "json.dumps"):
        with monkeypatch.context() as patch:
            patch.setattr(step, full)
            with pytest.raises(OSError, match="no space left"):
                model.save(tmp_path)
        assert torch.equal(similarity(GLSCL.load(tmp_path), *batch), before)
    model.save(tmp_path)
    assert not torch.equal(similarity(GLSCL.load(tmp_path), *batch), before)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_not_a_saved_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        GLSCL.load(tmp_path / "nowhere")
    model = tiny_model().float()
    model.save(tmp_path)
    with pytest.raises(ValueError, match="backbone 'tiny', expected 'mini'"):
        GLSCL.load(tmp_path, backbone="mini")
    file = tmp_path / "config.json"
    good = json.loads(file.read_text())

    def refused(error, match, **changes):
        file.write_text(json.dumps({**good, **changes}))
        with pytest.raises(error, match=match):
            GLSCL.load(tmp_path)

    refused(ValueError, "format 'other', expected", format="other")
    refused(ValueError, "lacks the settings", model={})
    refused(FileNotFoundError, "gone", weights="gone.safetensors")
    refused(ValueError, "does not describe a model of glscl", backbone=None)
    settings = {**good["model"], "num_queries": 4}
    refused(ValueError, "another backbone or configuration", model=settings)
    settings = {**good["model"], "share_queries": False}
    refused(ValueError, r"lacks 'lim_text\.queries'", model=settings)
    settings = {**good["model"], "local": False}
    refused(ValueError, "has an unknown 'lim_video", model=settings)
    file.write_text("{")
    with pytest.raises(ValueError, match="does not describe a model of glscl"):
        GLSCL.load(tmp_path)


def write(path, state):
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".safetensors"])
def test_authors_checkpoints_compute_the_same(tmp_path, share, suffix):
    model = tiny_model(share_queries=share, share_decoder=share, mask_padding=False)
    model = model.half().float()  # the checkpoint holds 16 bits
    path = write(tmp_path / f"model{suffix}", authors_state(model, share))
    loaded = GLSCL.from_authors(path, share=share)
    batch = text_batch(), video_batch(dtype=torch.float32)
    assert_close(
        similarity(loaded, *batch), similarity(model, *batch), rtol=0, atol=1e-6
    )
    assert not loaded.config.mask_padding
    assert loaded.backbone.quick_gelu
    assert next(loaded.parameters()).dtype == torch.float32


def test_what_a_checkpoint_does_not_say_is_given_and_saved(tmp_path):
    model = tiny_model(mask_padding=False)
    path = write(tmp_path / "model.bin", authors_state(model, share=True))
    given = {"alpha": 0.5, "beta": 0.25, "dropout": 0.0, "max_words": 9}
    loaded = GLSCL.from_authors(path, preset="lsmdc", max_frames=5, **given)
    loaded.save(tmp_path / "saved")
    config = GLSCL.load(tmp_path / "saved").config
    assert {name: getattr(config, name) for name in given} == given
    assert (config.max_frames, config.temperature) == (5, 5.0)
    assert loaded.lim_video.decoder.layers[0].dropout.p == 0
    assert config.num_queries == 3
    with pytest.raises(ValueError, match=r"num_queries is read from .*: do not give"):
        GLSCL.from_authors(path, num_queries=4)
    with pytest.raises(ValueError, match="Unknown setting 'tau'"):
        GLSCL.from_authors(path, tau=4)


def test_a_checkpoint_of_eercf_computes_the_same(tmp_path):
    torch.manual_seed(0)
    settings = {"backbone": "tiny", "pretrained": None, "temporal_layers": 2}
    config = EERCFConfig(**settings, max_frames=3, mask_padding=False)
    model = EERCF(Backbone("tiny", TINY), config).eval()
    for parameter in model.parameters():
        parameter.data = (parameter + 0.02 * torch.randn_like(parameter)).half().float()
    state = {authors_name(name): x for name, x in model.state_dict().items()}
    assert {"global_mat_weight", "frame_logit_weight"} < state.keys()
    path = write(tmp_path / "pytorch_model.bin.0", state)
    loaded = EERCF.from_authors(path, max_words=7)
    assert (loaded.config.max_frames, loaded.config.max_words) == (3, 7)
    batch = text_batch(), video_batch(dtype=torch.float32)
    with torch.no_grad():
        same = [
            m.similarity(m.encode_text(*batch[0]), m.encode_video(*batch[1]))
            for m in (model, loaded)
        ]
    assert torch.equal(*same)
    path = write(tmp_path / "glscl.bin", authors_state(tiny_model(), share=True))
    with pytest.raises(ValueError, match=r"no.* released EERCF .* lacks 'frame_logit"):
        EERCF.from_authors(path)


def test_authors_names_are_those_of_the_release():
    names = {
        "backbone.clip.visual.proj": "clip.visual.proj",
        "temporal.positions": "frame_position_embeddings.weight",
        "temporal.resblocks.1.ln_1.bias": "transformerClip.resblocks.1.ln_1.bias",
        "lim_video.queries": "spatial_queries",
        "lim_text.queries": "noun_queries",
        "video_map": "global_mat_weight",
        "frame_mix": "frame_logit_weight",
    }
    for name, released in names.items():
        assert authors_name(name) == released
    layer = "decoder.layers.2.linear1.bias"
    inner = layer.removeprefix("decoder.")
    assert authors_name(f"lim_video.{layer}") == f"transformer_decoder_spatial.{inner}"
    assert authors_name(f"lim_text.{layer}") == f"transformer_decoder_noun.{inner}"
    shared = authors_shared_name(f"lim_video.{layer}")
    assert shared == f"transformer_decoder_noun.{inner}"


@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "ViT-B-16-quickgelu"])
def test_authors_backbones_are_recognised_by_their_sizes(name):
    with torch.device("meta"):
        clip = Backbone(name, backbone_config(name)).clip
    state = {f"clip.{key}": value for key, value in clip.state_dict().items()}
    state["spatial_queries"] = torch.zeros(12, 512)
    found, config, sizes = authors_config(state, "here")
    assert found == authors_backbone(name, config, "here") == name
    with pytest.raises(ValueError, match="another backbone than 'ViT-L-14-quickgelu'"):
        authors_backbone("ViT-L-14-quickgelu", config, "here")
    with pytest.raises(ValueError, match="need QuickGELU, which 'ViT-B-"):
        authors_backbone(name.removesuffix("-quickgelu"), config, "here")
    assert config["vision_cfg"]["image_size"] == 224
    assert sizes["num_queries"] == 12


def test_what_is_not_an_authors_checkpoint_is_refused(tmp_path):
    good = authors_state(tiny_model(), share=True)

    def refused(match, state, **options):
        with pytest.raises(ValueError, match=match):
            GLSCL.from_authors(write(tmp_path / "model.pt", state), **options)

    def without(key):
        return {name: value for name, value in good.items() if name != key}

    refused(r"unknown 'global_mat_weight'", {**good, "global_mat_weight": torch.eye(2)})
    refused(r"lacks 'clip\.ln_final\.bias'", without("clip.ln_final.bias"))
    refused(r"lacks 'spatial_queries'", without("spatial_queries"))
    refused(
        r"lacks 'clip\.visual\.positional", without("clip.visual.positional_embedding")
    )
    refused("lacks 'transformer_decoder_spatial", good, share=False)
    refused("another backbone", good, backbone="ViT-B-32-quickgelu")
    refused("state dict", [1, 2])
    with pytest.raises(FileNotFoundError):
        GLSCL.from_authors(tmp_path / "nowhere.pt")


class Payload:
    """An object whose unpickling would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".safetensors"])
def test_pickled_objects_are_refused_and_never_run(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    torch.save({"clip.visual.proj": Payload(tmp_path / "ran")}, path)
    with pytest.raises(ValueError, match="Cannot read weights from"):
        GLSCL.from_authors(path)
    assert not (tmp_path / "ran").exists()
