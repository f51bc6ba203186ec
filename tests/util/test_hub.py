"""Models for the Hugging Face Hub, without a network."""

import json

import huggingface_hub
import pytest
import torch
from tiny_model import text_batch, tiny_model, video_batch

import glscl
from glscl.util.tables import markdown

ROW = {"direction": "text to video", "captions": "all captions", "R1": 12.3456}
RECORD = {
    "command": "python train.py",
    "data": "two | videos",
    "protocol": ["Two captions against two videos."],
    "test": [ROW, {**ROW, "direction": "video to text", "R1": 50.0}],
}


def scores(model):
    pixels, frame_mask = video_batch(dtype=torch.float32)
    with torch.inference_mode():
        text = model.encode_text(*text_batch())
        return model.similarity(text, model.encode_video(pixels, frame_mask))


@pytest.fixture
def model():
    made = tiny_model().float()
    made.record = RECORD
    return made


def test_a_model_has_the_files_of_the_hub_and_comes_back_with_its_record(
    tmp_path, model
):
    model.save_pretrained(tmp_path)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    again = glscl.GLSCL.from_pretrained(tmp_path)
    assert torch.equal(scores(again), scores(model))
    assert again.record == RECORD
    again.save(tmp_path / "saved")
    assert glscl.GLSCL.load(tmp_path / "saved").record == RECORD


def test_the_card_says_what_the_record_says(tmp_path, model):
    model.save_pretrained(tmp_path)
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    found = [(one.metric_name, one.metric_value) for one in card.data.eval_results]
    assert found == [
        ("R@1, text to video, all captions", 12.35),
        ("R@1, video to text, all captions", 50.0),
    ]
    assert card.data.library_name == "glscl"
    assert "- command: `python train.py`" in card.text
    assert RECORD["protocol"][0] in card.text
    assert markdown(RECORD["test"]) in card.text
    assert "GLSCL.from_pretrained(" in card.text


def test_the_card_of_a_model_without_a_record_claims_nothing(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results is None
    assert "not recorded" in card.text
    assert "|" not in card.text


def test_a_model_of_the_hub_is_fetched_without_its_card(tmp_path, model, monkeypatch):
    model.save_pretrained(tmp_path)

    def snapshot(repo_id, allow_patterns):
        assert repo_id == "owner/name"
        assert allow_patterns == ["*.json", "*.safetensors"]
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert torch.equal(scores(glscl.GLSCL.from_pretrained("owner/name")), scores(model))


@pytest.mark.parametrize("name", ["owner/name", "no id at all", "nowhere/a/folder"])
def test_without_a_network_or_with_a_wrong_id_one_sentence_says_so(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="neither 'mini' nor a folder") as caught:
        glscl.GLSCL.from_pretrained(name)
    assert f"{name!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pushing_uploads_the_same_files(model, monkeypatch):
    done = {}

    class Api:
        def __init__(self, token):
            done["token"] = token

        def create_repo(self, repo_id, private, exist_ok):
            done["made"] = (repo_id, private, exist_ok)
            return f"https://hub/{repo_id}"

        def upload_folder(self, repo_id, folder_path):
            done["files"] = sorted(file.name for file in folder_path.iterdir())

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert model.push_to_hub("owner/name", private=True) == "https://hub/owner/name"
    assert done == {
        "token": None,
        "made": ("owner/name", True, True),
        "files": ["README.md", "config.json", "model.safetensors"],
    }

    def refuse(*_, **__):
        raise OSError("401\nunauthorised")

    monkeypatch.setattr(Api, "create_repo", refuse)
    with pytest.raises(ConnectionError, match="'owner/name' could not be written"):
        model.push_to_hub("owner/name")


def test_a_config_cannot_name_weights_outside_its_folder(tmp_path, model):
    model.save_pretrained(tmp_path / "other")
    model.save_pretrained(tmp_path / "mine")
    (tmp_path / "mine/model.safetensors").unlink()
    file = tmp_path / "mine/config.json"
    config = json.loads(file.read_text())
    config["weights"] = "../other/model.safetensors"
    file.write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError):
        glscl.GLSCL.from_pretrained(tmp_path / "mine")


def test_only_methods_with_a_trained_model_have_a_mini_one():
    with pytest.raises(ValueError, match="No trained mini model of GLCCL"):
        glscl.GLCCL.from_pretrained("mini")
