import dataclasses

import pytest

from glscl.config import (
    ModelConfig,
    TrainConfig,
    config_from_dict,
    config_to_dict,
    get_preset,
    override,
    preset_names,
)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_survives_a_round_trip(name):
    preset = get_preset(name)
    assert config_from_dict(ModelConfig, config_to_dict(preset.model)) == preset.model
    assert config_from_dict(TrainConfig, config_to_dict(preset.train)) == preset.train


def test_released_and_paper_values_differ_where_the_sources_do():
    assert get_preset("msrvtt", "released").model.beta == 0.02
    assert get_preset("msrvtt", "paper").model.beta == 0.005
    assert get_preset("activitynet").model.num_queries == 12
    assert get_preset("lsmdc").model.temperature == 5.0
    assert get_preset("didemo").train.batch_size == 32


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown preset 'msr-vtt'.*msrvtt"):
        get_preset("msr-vtt")
    with pytest.raises(ValueError, match="Unknown preset tag"):
        get_preset("msrvtt", "best")
    with pytest.raises(ValueError, match=r"Unknown setting 'temp'.*temperature"):
        override(ModelConfig(), {"temp": 5})
    values = config_to_dict(ModelConfig())
    del values["pooling"]
    with pytest.raises(ValueError, match=r"lacks the settings \['pooling'\]"):
        config_from_dict(ModelConfig, values)


def test_presets_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_preset("mini").model.temperature = 1.0
