"""params.yaml -> checked, typed values: the only place that reads it."""

import reprlib
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from pipeline.stage import run

PARAMS = Path("params.yaml")
NonNegative = Annotated[int, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class Loader(yaml.SafeLoader):
    """YAML's plain values, and no key twice: PyYAML would take the last without a word."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := {str(key) for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


class Section(BaseModel):
    """Values of just the types that are written here, none missing and none unknown."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Corpus(Section):
    path: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    validation_share: Annotated[float, Field(gt=0, lt=1)]


class Model(Section):
    block_size: PositiveInt
    d_model: PositiveInt
    n_heads: PositiveInt
    n_layers: PositiveInt
    rotary: bool

    @model_validator(mode="after")
    def _heads_share_the_width(self):
        if self.d_model % (self.n_heads * (1 + self.rotary)):
            times = "twice " * self.rotary
            raise ValueError(f"d_model is {self.d_model}: it should be a multiple of {times}n_heads, {self.n_heads}")
        return self


class Train(Section):
    steps: PositiveInt
    batch_size: PositiveInt
    shards: PositiveInt
    learning_rate: PositiveFloat
    muon_learning_rate: Annotated[float, Field(ge=0)]
    warmup_steps: NonNegative
    beta1: Decay
    beta2: Decay
    clip_norm: PositiveFloat
    dropout: Decay
    evaluation_interval: PositiveInt
    evaluation_windows: PositiveInt
    seed: NonNegative
    launcher: str

    @model_validator(mode="after")
    def _shards_are_equal(self):
        if self.batch_size % self.shards:
            raise ValueError(f"shards is {self.shards}: it should divide batch_size, {self.batch_size}")
        return self


class Checkpoint(Section):
    interval: PositiveInt


class Sample(Section):
    prompt: Annotated[str, Field(min_length=1)]
    count: PositiveInt
    length: PositiveInt
    temperature: Annotated[float, Field(ge=0)]
    top_k: NonNegative
    seed: NonNegative


class PlotAttention(Section):
    prompt: Annotated[str, Field(min_length=1)]
    layer: int


class Params(Section):
    corpus: Corpus
    model: Model
    train: Train
    checkpoint: Checkpoint
    sample: Sample
    plot_attention: PlotAttention

    @model_validator(mode="after")
    def _attention_can_be_drawn(self):
        plot, model = self.plot_attention, self.model
        if not -model.n_layers <= plot.layer < model.n_layers:
            rule = f"it should be {-model.n_layers} to {model.n_layers - 1}"
            raise ValueError(f"plot_attention.layer is {plot.layer}: {rule}")
        if len(plot.prompt) > model.block_size:
            rule = f"it should have at most model.block_size, {model.block_size}"
            raise ValueError(f"plot_attention.prompt has {len(plot.prompt)} characters: {rule}")
        return self


def brief(value):
    """A value as Python writes it, but short however large it is."""
    short = reprlib.Repr()
    short.maxlevel = 1
    return short.repr(value)


def explain(error):
    """One pydantic error -> key, value and what would be right."""
    key, value = ".".join(map(str, error["loc"])), error["input"]
    match error["type"]:
        case "missing":
            return f"{key} is missing"
        case "extra_forbidden":
            return f"{key} is unknown"
        case "value_error":
            return f"{key}: {error['ctx']['error']}".removeprefix(": ")
    hint = " (YAML reads 1e-3 as text: write 0.001 or 1.0e-3)" if error["type"] == "float_type" else ""
    rule = error["msg"].replace("Input", "it").replace("String", "it")
    return f"{key or 'the whole'} is {brief(value)}: {rule}{hint}"


def load_params():
    """Read params.yaml in the current folder; ValueError names each wrong key, its value and what would be right."""
    try:
        return Params.model_validate(yaml.load(PARAMS.read_text(encoding="utf-8"), Loader))
    except UnicodeDecodeError as error:
        raise ValueError(f"{PARAMS} is not UTF-8 text: {error.reason} at position {error.start}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{PARAMS} is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{PARAMS} is not valid: it is nested too deep") from None
    except ValidationError as error:
        first, more = error.errors()[:5], error.error_count() - 5
        wrong = [*map(explain, first), *([f"and {more} more"] if more > 0 else [])]
        raise ValueError(f"{PARAMS}: {'; '.join(wrong)}") from None


def check():
    """Say what is wrong before DVC starts: it would not look at params that no stage has, nor name corpus.path."""
    path = load_params().corpus.path
    if not Path(path).is_file():
        raise ValueError(f"corpus {path} does not exist: put a text file there, or change corpus.path in {PARAMS}")


if __name__ == "__main__":
    run(check)
