"""params.yaml, params.py and the defaults of baregpt agree."""

from dataclasses import fields

from baregpt.model import Config
from baregpt.trainer import TrainConfig
from pipeline.common.params import load_params


def test_the_shipped_params_are_the_documented_model_and_training(monkeypatch):
    monkeypatch.chdir(__file__.rpartition("/tests/")[0])
    params = load_params()
    assert params.corpus.path == "data/plays.txt"
    assert Config(65, **params.model.model_dump()) == Config(65)
    assert TrainConfig(**params.train.model_dump(exclude={"init"})) == TrainConfig()
    assert params.train.init is None
    assert params.ranks.launcher == ""


def test_every_setting_of_training_and_model_is_a_param():
    from pipeline.common.params import Model, Train

    assert set(Train.model_fields) == {"init", *(field.name for field in fields(TrainConfig))}
    assert {"vocab_size", *Model.model_fields} == {field.name for field in fields(Config)}
