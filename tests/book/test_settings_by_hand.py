"""Run by hand, a notebook takes the values that fit the machine; a build gives its own."""

import json

import pytest

from book.builder import parameters
from book.kit import settings


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A chapter with four parameters, and what two sets say about it."""
    (tmp_path / "params").mkdir()
    source = [
        'size = "auto"  # x\n',
        "clips = 3  # x\n",
        "epochs = 2  # x\n",
        "seed = 0  # x",
    ]
    cell = {"metadata": {"tags": ["parameters"]}, "source": source}
    (tmp_path / "01_a.ipynb").write_text(json.dumps({"cells": [cell]}))
    (tmp_path / "params/cpu.yaml").write_text("common: {seed: 0}\nnotebooks: {}\n")
    (tmp_path / "params/gpu.yaml").write_text(
        "common: {seed: 0, absent: 1}\nnotebooks:\n  01_a: {clips: 30, epochs: 20}\n"
    )
    monkeypatch.setattr(settings, "NOTEBOOKS", tmp_path)
    return tmp_path


VALUES = {"size": "auto", "clips": 3, "epochs": 2, "seed": 0}


@pytest.mark.parametrize("cuda", [True, False])
def test_auto_takes_the_values_for_a_gpu_where_there_is_one(folder, monkeypatch, cuda):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    found = settings.fit_to_machine("01_a", VALUES)
    assert found == ({"clips": 30, "epochs": 20} if cuda else {})


def test_a_size_can_be_named_and_what_was_changed_by_hand_stays(folder, capsys):
    values = {**VALUES, "size": "gpu", "epochs": 3}
    assert settings.fit_to_machine("01_a", values) == {"clips": 30}
    assert capsys.readouterr().out == "Size gpu: clips = 30\n"


def test_values_that_are_given_are_not_changed(folder, capsys):
    values = {**VALUES, "size": settings.GIVEN}
    assert settings.fit_to_machine("01_a", values) == {}
    assert capsys.readouterr().out == ""


def test_an_unknown_size_is_refused(folder):
    with pytest.raises(ValueError, match=r"size is 'auto' or one of .*got 'huge'"):
        settings.fit_to_machine("01_a", {**VALUES, "size": "huge"})


def test_results_can_go_to_a_folder_that_stays(folder, tmp_path):
    place = tmp_path / "drive/results"
    values = {**VALUES, "size": "cpu", "save_to": str(place), "run_root": "runs"}
    values["records"] = "book/results/reproduction"
    found = settings.fit_to_machine("01_a", values)
    assert found == {
        "run_root": str(place / "runs"),
        "records": str(place / "reproduction"),
    }
    assert place.is_dir()
    assert "run_root" not in settings.fit_to_machine("01_a", {**values, "save_to": ""})


def test_a_parameter_set_gives_every_value_itself(tmp_path):
    (tmp_path / "gpu.yaml").write_text("notebooks: {01_a: {clips: 9}}\n")
    values, _ = parameters.read_set(tmp_path / "gpu.yaml", {"01_a": VALUES})
    assert values["01_a"] == {**VALUES, "clips": 9, "size": settings.GIVEN}
