"""Settings are checked wherever they come from, and refused in one sentence."""

import json
from dataclasses import MISSING, FrozenInstanceError, asdict, fields, replace
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import pytest

from glscl.config import (
    MODEL_CONFIGS,
    DataOptions,
    ModelConfig,
    RunOptions,
    TrainConfig,
    config_from_dict,
    get_preset,
    identity,
    override,
    preset_names,
)
from glscl.util.settings import check, described, field_types, fits, load_yaml, parse

ROOT = Path(__file__).resolve().parents[2]
KINDS = (*MODEL_CONFIGS.values(), TrainConfig, RunOptions, DataOptions)
EVERY = [(kind, field) for kind in KINDS for field in fields(kind)]
NAMES = [f"{kind.__name__}.{field.name}" for kind, field in EVERY]


def refusal(kind, **changes):
    with pytest.raises(ValueError, match="must be") as caught:
        kind(**changes)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        (
            ModelConfig,
            {"mask_padding": "False"},
            "mask_padding must be true or false, got 'False'.",
        ),
        (
            ModelConfig,
            {"pooling": "GIM"},
            "pooling must be 'gim' or 'mean', got 'GIM'.",
        ),
        (
            TrainConfig,
            {"epoch_over": "caption"},
            "epoch_over must be 'captions' or 'videos', got 'caption'.",
        ),
        (
            TrainConfig,
            {"epochs": 0},
            "epochs must be a whole number of at least 1, got 0.",
        ),
        (
            ModelConfig,
            {"temperature": -1.0},
            "temperature must be a number above 0, got -1.0.",
        ),
        (
            RunOptions,
            {"micro_batch": 0},
            "micro_batch must be a whole number of at least 1, or null, got 0.",
        ),
    ],
)
def test_a_wrong_value_is_one_sentence(kind, changes, sentence):
    assert refusal(kind, **changes) == sentence


@pytest.mark.parametrize(("kind", "field"), EVERY, ids=NAMES)
def test_every_setting_has_a_type_that_is_checked(kind, field):
    assert field.default is not MISSING
    sentence = refusal(kind, **{field.name: object()})
    assert sentence.startswith(f"{field.name} must be ")


def parts(allowed):
    if get_origin(allowed) is Annotated:
        return parts(get_args(allowed)[0])
    if get_origin(allowed) is Literal:
        return {Literal}
    return {part for one in get_args(allowed) for part in parts(one)} or {allowed}


def bounds(allowed):
    """The limits of a number by pydantic's names: ge, gt, le, lt."""
    return {
        name: getattr(constraint, name)
        for part in (allowed, *get_args(allowed))
        for extra in getattr(part, "__metadata__", ())
        for constraint in extra.metadata
        for name in ("ge", "gt", "le", "lt")
        if hasattr(constraint, name)
    }


@pytest.mark.parametrize(("kind", "field"), EVERY, ids=NAMES)
def test_text_is_no_number_and_a_truth_value_is_none_either(kind, field):
    types = parts(field_types(kind)[field.name])
    if str not in types:
        refusal(kind, **{field.name: "1"})
    if types & {int, float}:
        refusal(kind, **{field.name: True})
    if Literal in types:
        refusal(kind, **{field.name: "no such choice"})


@pytest.mark.parametrize(("kind", "field"), EVERY, ids=NAMES)
def test_every_number_has_a_range_that_is_checked(kind, field):
    allowed = field_types(kind)[field.name]
    types, limits = parts(allowed), bounds(allowed)
    if types & {int, float} and field.name != "seed":
        assert {"ge", "gt"} & limits.keys()
    step = 1 if int in types else 1e-9
    for name, limit in limits.items():
        outside = {"ge": limit - step, "le": limit + step}.get(name, limit)
        inside = {"gt": limit + step, "lt": limit - step}.get(name, limit)
        sentence = refusal(kind, **{field.name: outside})
        assert f" {limit:g}" in sentence
        assert sentence.endswith(f", got {outside!r}.")
        assert getattr(kind(**{field.name: inside}), field.name) == inside
    if float in types:
        for value in (float("inf"), float("-inf"), float("nan")):
            refusal(kind, **{field.name: value})
    if int in types:
        refusal(kind, **{field.name: 1.0})


@pytest.mark.parametrize(("kind", "field"), EVERY, ids=NAMES)
def test_every_choice_is_taken_as_it_is_written_only(kind, field):
    allowed = field_types(kind)[field.name]
    if get_origin(allowed) is not Literal:
        return
    choices = get_args(allowed)
    for choice in choices:
        assert getattr(kind(**{field.name: choice}), field.name) == choice
        sentence = refusal(kind, **{field.name: choice.upper()})
        assert all(repr(one) in sentence for one in choices)


@pytest.mark.parametrize(("kind", "field"), EVERY, ids=NAMES)
def test_no_setting_can_be_changed_in_place(kind, field):
    with pytest.raises(FrozenInstanceError):
        setattr(kind(), field.name, field.default)


@pytest.mark.parametrize("method", MODEL_CONFIGS)
def test_every_preset_passes_and_survives_json(method):
    for name in preset_names(method):
        preset = get_preset(name, method=method)
        for config in (preset.model, preset.train):
            assert config_from_dict(type(config), asdict(config)) == config


def test_a_whole_number_may_stand_for_a_number():
    assert override(ModelConfig(), {"temperature": 3}).temperature == 3


def test_a_changed_setting_is_checked_again():
    with pytest.raises(ValueError, match=r"num_queries must be .*, got 0\."):
        override(ModelConfig(), {"num_queries": 0})
    with pytest.raises(ValueError, match="Unknown setting 'speed' of TrainConfig"):
        override(TrainConfig(), {"speed": 3})


def test_a_saved_model_with_a_wrong_value_is_refused():
    values = {**asdict(ModelConfig()), "pooling": "max"}
    with pytest.raises(ValueError, match="pooling must be 'gim' or 'mean', got 'max'"):
        config_from_dict(ModelConfig, values)


def test_settings_of_a_model_saved_before_they_were_checked_still_load():
    text = """{
        "backbone": "mini", "pretrained": "builtin", "max_words": 32, "max_frames": 12,
        "sample_fps": 8.0, "temporal_layers": 4, "position_std": null,
        "mask_padding": true, "pooling": "gim", "temperature": 100.0, "local": true,
        "local_weight": 0.5, "num_queries": 8, "num_decoder_layers": 3, "num_heads": 8,
        "dropout": 0.0, "share_queries": true, "share_decoder": true,
        "icl_weight": 0.1, "icl_normalise": "released", "beta": 0.005, "alpha": 0.01,
        "idl_margin": 0.1, "idl_sides": "video"
    }"""
    config = config_from_dict(ModelConfig, json.loads(text))
    assert config == get_preset("mini").model
    written = asdict(config)
    assert written.pop("sampling") == "stride"  # a setting from after that time
    assert identity(config) == written  # so that a run of that time can be resumed
    assert identity(replace(config, sampling="seconds"))["sampling"] == "seconds"
    assert list(written.items()) == list(json.loads(text).items())


def test_settings_of_stored_runs_fit_and_are_written_as_they_were():
    runs = [*ROOT.glob("book/results/ablation/*"), *ROOT.glob("book/results/longer/*")]
    assert runs
    for path in runs:
        record = json.loads(path.read_text())
        kinds = MODEL_CONFIGS[record.get("method", "glscl")], TrainConfig
        for kind, name in zip(kinds, ("model", "recipe"), strict=True):
            # A run from before a setting was added has its default.
            written = asdict(override(kind(), record[name]))
            stored = {key: written[key] for key in record[name]}
            assert json.dumps(stored) == json.dumps(record[name])


def test_values_are_yaml_scalars():
    given = ["a=true", "b=False", "c=null", "d=3", "e=0.5", "f=1e-4", "g=rand-m7-n4"]
    assert parse(given) == {
        "a": True,
        "b": False,
        "c": None,
        "d": 3,
        "e": 0.5,
        "f": 1e-4,
        "g": "rand-m7-n4",
    }
    assert parse(["h=5e-4", "i=-2.5E+3", "j=/data/a=b"]) == {
        "h": 5e-4,
        "i": -2500.0,
        "j": "/data/a=b",
    }


def test_dates_are_text_and_a_setting_that_is_no_list_takes_none():
    assert parse(["a=2024-01-01", "b=2024-13-45"]) == {
        "a": "2024-01-01",
        "b": "2024-13-45",
    }
    assert load_yaml("[1e-4, true]") == [1e-4, True]


@pytest.mark.parametrize("text", ["a: 1\nb: {c: 1}\na: 2", "a:\n\n  {b: 1, b: 1}"])
def test_a_name_that_is_there_twice_is_refused(text):
    with pytest.raises(ValueError, match=r"not YAML: line 3: '[ab]' is there twice"):
        load_yaml(text)
    with pytest.raises(ValueError, match=r"epochs must be a whole number .*got \[1\]"):
        override(TrainConfig(), parse(["epochs=[1]"]))


@pytest.mark.parametrize("pair", ["epochs", "=3", "a=[1", "a=!!int x", "a=*b"])
def test_what_is_no_pair_is_refused_in_one_sentence(pair):
    with pytest.raises(ValueError, match=r"[.]$") as caught:
        parse([pair])
    assert "\n" not in str(caught.value)


def test_types_in_words():
    assert described(Literal["a", "b", "c"]) == "'a', 'b' or 'c'"
    assert described(float | None) == "a number, or null"
    assert fits(int | None, None)
    assert not fits(int, 1.5)
    with pytest.raises(ValueError, match=r"^size must be a whole number, got 'x'\.$"):
        check(int, "x", "size")
