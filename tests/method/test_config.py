import dataclasses

import pytest

from glscl.config import (
    ModelConfig,
    TrainConfig,
    config_from_dict,
    get_preset,
    override,
    preset_names,
)

TAGS = ("released", "readme", "recommended")


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_survives_a_round_trip(name, tag):
    preset = get_preset(name, tag)
    assert (
        config_from_dict(ModelConfig, dataclasses.asdict(preset.model)) == preset.model
    )
    assert (
        config_from_dict(TrainConfig, dataclasses.asdict(preset.train)) == preset.train
    )


def test_values_differ_where_the_sources_do():
    betas = {tag: get_preset("msrvtt", tag).model.beta for tag in TAGS}
    assert betas == {"released": 0.02, "readme": 0.005, "recommended": 0.02}
    assert get_preset("activitynet").model.num_queries == 12
    assert get_preset("lsmdc").model.temperature == 5.0
    assert get_preset("didemo").train.batch_size == 32
    weights = {tag: get_preset("msrvtt", tag, "glccl").model.csc_weight for tag in TAGS}
    assert weights == {"released": 0.1, "readme": 0.5, "recommended": 0.5}
    gpus = {
        name: get_preset(name, "released").train.gradient_divisor
        for name in ("msrvtt", "msvd", "didemo", "lsmdc", "activitynet")
    }
    assert gpus == {**dict.fromkeys(gpus, 4), "activitynet": 8}


@pytest.mark.parametrize("method", ["glscl", "eercf", "glccl"])
def test_recommended_settings_have_no_defect_of_the_release(method):
    for name in preset_names(method):
        if name == "mini":
            continue
        released, recommended = (get_preset(name, tag, method) for tag in TAGS[::2])
        assert (released.model.mask_padding, recommended.model.mask_padding) == (
            False,
            True,
        )
        assert released.train.clip_arithmetic == "released"
        chosen = recommended.train
        assert (chosen.clip_arithmetic, chosen.select_on) == ("float32", "validation")
        assert (chosen.gradient_divisor, chosen.schedule_epochs) == (1, None)
        assert (chosen.look_every, chosen.keep) == (None, "best")


def test_the_release_augments_three_benchmarks_of_glscl_alone():
    augmented = {
        (method, name)
        for method in ("glscl", "eercf", "glccl")
        for name in preset_names(method)
        if get_preset(name, "released", method).train.augment
    }
    # VATEX, for which GLSCL has no script, is as MSVD.
    assert augmented == {
        ("glscl", name) for name in ("msrvtt", "msvd", "lsmdc", "vatex")
    }


def test_the_release_looks_at_the_test_split_of_three_benchmarks_of_glscl():
    looks = {
        name: (recipe.select_on, recipe.look_every)
        for name in preset_names()
        if name not in ("mini", "vatex")
        for recipe in [get_preset(name, "released").train]
    }
    assert looks == {
        "msrvtt": ("test", 150),
        "msvd": ("validation", 150),
        "didemo": ("test", 150),
        "lsmdc": ("validation", 15),
        "activitynet": ("test", 30),
    }


def test_a_preset_is_changed_by_name_in_both_of_its_parts():
    changed = get_preset("msrvtt").changed({"beta": 0.1, "epochs": 2})
    assert (changed.model.beta, changed.train.epochs) == (0.1, 2)
    assert changed.settings()["beta"] == 0.1
    parts = dataclasses.asdict(changed.model), dataclasses.asdict(changed.train)
    assert len(changed.settings()) == sum(map(len, parts))  # no name is in both


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown preset 'msr-vtt'.*msrvtt"):
        get_preset("msr-vtt")
    with pytest.raises(ValueError, match="Unknown tag"):
        get_preset("msrvtt", "best")
    with pytest.raises(ValueError, match=r"Unknown setting 'temp'.*temperature"):
        override(ModelConfig(), {"temp": 5})
    values = dataclasses.asdict(ModelConfig())
    del values["pooling"]
    with pytest.raises(ValueError, match=r"lacks the settings \['pooling'\]"):
        config_from_dict(ModelConfig, values)


def test_presets_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_preset("mini").model.temperature = 1.0
