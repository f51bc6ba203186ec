"""The trained mini model: how its recipe is chosen, what its file and record hold."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from toy import toy_model, toy_recipe, toy_videos

from book.experiments import mini_model
from book.experiments.ablations import Setup
from book.experiments.mini_model import best_variant, digest, package
from glscl.data.split import CaptionItem, VideoItem
from glscl.evaluate import evaluate
from glscl.metrics import text_to_video_ranks
from glscl.util.state_dicts import read_state_dict


def test_the_recipe_is_the_best_of_glscl_on_validation(tmp_path):
    def row(validation, test):
        return {"validation_R1": {"mean": validation}, "t2v": {"R1": {"mean": test}}}

    rows = {"all": row(3, 9), "positions": row(5, 1), "glccl": row(9, 9)}
    path = tmp_path / "longer.json"
    setup = asdict(Setup(train_clips=7))
    path.write_text(json.dumps({"variants": rows, "setup": setup}))
    assert best_variant(path) == ("positions", Setup(train_clips=7))


@pytest.fixture
def splits(tmp_path):
    """Toy features of videos whose files exist."""
    made = {name: toy_videos(6, 2, name) for name in ("train", "val", "test")}
    for cached in made.values():
        items = []
        for item in cached.split.videos:
            path = tmp_path / f"{item.id}.mp4"
            path.write_bytes(item.id.encode())
            items.append(VideoItem(item.id, path))
        cached.split = replace(cached.split, videos=tuple(items))
    return made


def test_the_stored_model_is_the_trained_one_in_16_bits(tmp_path, splits):
    model = toy_model(pretrained="builtin")
    with torch.no_grad():
        model.lim_video.queries += 0.1
    run = {
        "recipe": asdict(toy_recipe()),
        "model": asdict(model.config),
        "best_epoch": 1,
        "validation_R1": [1.0, 2.5],
        "loss": [3.0, 2.0, 1.0],
        "seed": 4,
        "seconds": 5.0,
    }
    folder = tmp_path / "glscl"
    stored = package(model, run, splits, {"command": "a command"}, folder)
    names = read_state_dict(folder / "model.safetensors").keys()
    assert names
    assert not any(name.startswith("backbone.clip.visual.") for name in names)
    for name, x in stored.state_dict().items():
        assert torch.equal(x, model.state_dict()[name].half().float()), name
    record = stored.record
    assert (record["command"], record["seed"], record["steps"]) == ("a command", 4, 3)
    assert (record["best_epoch"], record["validation_R1"]) == (1, 2.5)
    assert record["data_sha256"] == digest(x.split for x in splits.values())
    size = toy_recipe().eval_batch_size
    found, exact = (evaluate(m, splits["test"], size) for m in (stored, model))
    assert record["test"][0]["R1"] == found.metrics["t2v"]["R1"]
    gap = (found.similarity - exact.similarity).abs().max().item()
    assert record["rounding"]["largest_score_difference"] == pytest.approx(gap)
    owner = found.split.caption_to_video
    ranks = [text_to_video_ranks(r.similarity, owner).rank() for r in (found, exact)]
    changed = int((ranks[0] != ranks[1]).sum())
    assert record["rounding"]["captions_of_another_rank"] == changed


def test_a_trained_image_tower_is_refused(tmp_path, splits):
    model = toy_model(pretrained="builtin")
    with torch.no_grad():
        model.backbone.clip.visual.proj += 1
    with pytest.raises(ValueError, match=r"visual\.proj was trained"):
        package(model, {}, splits, {}, tmp_path)


def test_the_digest_sees_files_and_captions(splits):
    split = splits["test"].split
    first = digest([split])
    assert digest([split]) == first
    other = CaptionItem("another sentence", 0)
    assert digest([replace(split, captions=(other, *split.captions[1:]))]) != first
    split.videos[2].path.write_bytes(b"another video")
    assert digest([split]) != first


def test_the_best_stored_recipe_is_one_that_can_be_trained():
    variant, setup = best_variant()
    assert variant in mini_model.ALL_VARIANTS
    assert setup.pretrained == "builtin"
