"""params.yaml -> checked, typed values: the only place that reads it."""

import reprlib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError
from pydantic import model_validator as validator
from ruamel.yaml import YAML, YAMLError  # DVC's own: PyYAML takes `-S sample.prompt=No` for False

PARAMS = "params.yaml"
NonNegative = Annotated[int, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Prompt = Annotated[str, Field(min_length=1)] | None


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
    convolution: bool

    @validator(mode="after")
    def _heads_share_the_width(self):
        if self.d_model % (self.n_heads * (1 + self.rotary)):
            times = "twice " * self.rotary
            rule = f"it should be a multiple of {times}n_heads, {self.n_heads}"
            raise ValueError(f"d_model is {self.d_model}: {rule}")
        return self


class Train(Section):
    steps: PositiveInt
    batch_size: PositiveInt
    shards: PositiveInt
    learning_rate: PositiveFloat
    muon_learning_rate: Annotated[float, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_steps: NonNegative
    beta1: Decay
    beta2: Decay
    clip_norm: PositiveFloat
    dropout: Decay
    evaluation_interval: PositiveInt
    evaluation_windows: PositiveInt
    seed: NonNegative

    @validator(mode="after")
    def _shards_are_equal(self):
        if self.batch_size % self.shards:
            rule = f"it should divide batch_size, {self.batch_size}"
            raise ValueError(f"shards is {self.shards}: {rule}")
        return self


class Checkpoint(Section):
    interval: PositiveInt


class Ranks(Section):
    launcher: str


class Sample(Section):
    prompt: Prompt
    count: PositiveInt
    length: PositiveInt
    temperature: Annotated[float, Field(ge=0)]
    top_k: NonNegative
    seed: NonNegative


class PlotAttention(Section):
    prompt: Prompt
    layer: int


class Params(Section):
    corpus: Corpus
    model: Model
    train: Train
    checkpoint: Checkpoint
    ranks: Ranks
    sample: Sample
    plot_attention: PlotAttention

    @validator(mode="after")
    def _attention_can_be_drawn(self):
        plot, model = self.plot_attention, self.model
        if not -model.n_layers <= plot.layer < model.n_layers:
            rule = f"it should be {-model.n_layers} to {model.n_layers - 1}"
            raise ValueError(f"plot_attention.layer is {plot.layer}: {rule}")
        length = len(plot.prompt or "")
        if length > model.block_size:
            rule = f"it should have at most model.block_size, {model.block_size}"
            raise ValueError(f"plot_attention.prompt has {length} characters: {rule}")
        return self


def brief(value):
    """A value as Python writes it, but short however large it is."""
    short = reprlib.Repr()
    short.maxlevel = 1
    return short.repr(value)


def explain(error):
    """One pydantic error -> key, value and what would be right."""
    key = ".".join(map(str, error["loc"]))
    match error["type"]:
        case "missing":
            return f"{key} is missing"
        case "extra_forbidden":
            return f"{key} is unknown"
        case "value_error":
            return f"{key}: {error['ctx']['error']}".removeprefix(": ")
    rule = error["msg"].replace("Input", "it").replace("String", "it")
    return f"{key or 'the whole'} is {brief(error['input'])}: {rule}"


def read_yaml(path):
    """What a YAML file says, in plain values; ValueError, in one line, if it is none."""
    try:
        return YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        where = f"{error.reason} at position {error.start}"
        raise ValueError(f"{path} is not UTF-8 text: {where}") from None
    except YAMLError as error:
        reason = getattr(error, "problem", None) or str(error)
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path} is not valid YAML: {' '.join(reason.split())}{where}") from None
    except RecursionError:
        raise ValueError(f"{path} is not valid: it is nested too deep") from None


def load_params():
    """Read params.yaml in the current folder; ValueError names each wrong key, its value and what
    would be right.
    """
    try:
        return Params.model_validate(read_yaml(PARAMS))
    except ValidationError as error:
        wrong = [explain(one) for one in error.errors()[:5]]
        if error.error_count() > 5:
            wrong.append(f"and {error.error_count() - 5} more")
        raise ValueError(f"{PARAMS}: {'; '.join(wrong)}") from None


def flat(values, prefix=""):
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(values, dict):
        return {prefix: values}
    parts = [flat(value, f"{prefix}.{name}".strip(".")) for name, value in values.items()]
    return {name: value for part in parts for name, value in part.items()}


def check():
    """Say what is wrong before DVC starts: it would not look at params that no stage has, nor name
    corpus.path.
    """
    path = load_params().corpus.path
    if not Path(path).is_file():
        put = f"put a text file there, or change corpus.path in {PARAMS}"
        raise ValueError(f"corpus {path} does not exist: {put}")


if __name__ == "__main__":
    from pipeline.common.stage import run  # which reads params itself

    run(check)
