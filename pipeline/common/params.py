"""params.yaml as checked, typed values."""

import os
import re
import reprlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, model_validator

from pipeline.common.paths import PARAMS
from pipeline.common.yaml_file import flatten, read_yaml

RENAMED = {"corpus.validation_share": "corpus.validation_fraction"}
REMOVED = {"model.convolution"}
NonNegativeInt64 = Annotated[int, Field(ge=0, lt=1 << 63)]
PositiveInt64 = Annotated[int, Field(gt=0, lt=1 << 63)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Prompt = Annotated[str, Field(min_length=1)] | None


class Section(BaseModel):
    """Strictly typed values; a missing or unknown key is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Corpus(Section):
    path: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    validation_fraction: Annotated[float, Field(gt=0, lt=1)]


class Model(Section):
    block_size: PositiveInt64
    d_model: PositiveInt64
    n_heads: PositiveInt64
    n_layers: PositiveInt64
    rotary: bool

    @model_validator(mode="after")
    def _width_is_divisible(self):
        width, heads = f"model.d_model ({self.d_model})", f"model.n_heads ({self.n_heads})"
        if self.d_model % self.n_heads:
            raise ValueError(f"{width} must be divisible by {heads}")
        if self.rotary and self.d_model // self.n_heads % 2:
            raise ValueError(f"{width} must be divisible by twice {heads} if model.rotary is true")
        return self


class Train(Section):
    init: str | None
    steps: PositiveInt64
    batch_size: PositiveInt64
    shards: PositiveInt64
    learning_rate: PositiveFloat
    muon_learning_rate: Annotated[float, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_steps: NonNegativeInt64
    beta1: Fraction
    beta2: Fraction
    clip_norm: PositiveFloat
    dropout: Fraction
    evaluation_interval: PositiveInt64
    evaluation_windows: PositiveInt64
    seed: NonNegativeInt64

    @model_validator(mode="after")
    def _init_is_in_the_checkout(self):
        if self.init is not None:
            path = os.path.normpath(self.init)  # "a/../../b" is "../b", and "" is "."
            if path == "." or re.match(r"[/~]|\.\.(/|$)", path):
                raise ValueError(
                    f"train.init ({self.init!r}) must be a path relative to the checkout, inside it"
                )
        return self

    @model_validator(mode="after")
    def _shards_are_equal(self):
        batch_size, shards = self.batch_size, self.shards
        if batch_size % shards:
            raise ValueError(
                f"train.batch_size ({batch_size}) must be divisible by train.shards ({shards})"
            )
        return self


class Checkpoint(Section):
    interval: PositiveInt64


class Ranks(Section):
    launcher: str


class Sample(Section):
    prompt: Prompt
    count: PositiveInt64
    length: PositiveInt64
    temperature: Annotated[float, Field(ge=0, lt=1e300)]  # what the sampler accepts
    top_k: NonNegativeInt64
    seed: NonNegativeInt64


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

    @model_validator(mode="after")
    def _attention_can_be_plotted(self):
        layer, n_layers = self.plot_attention.layer, self.model.n_layers
        if not -n_layers <= layer < n_layers:
            raise ValueError(
                f"plot_attention.layer ({layer}) must be in [{-n_layers}, {n_layers - 1}]"
            )
        length, block_size = len(self.plot_attention.prompt or ""), self.model.block_size
        if length > block_size:
            raise ValueError(
                f"plot_attention.prompt ({length} characters) must have at most model.block_size"
                f" ({block_size}) characters"
            )
        return self


def describe(error):
    """Return what a pydantic error says, as "section.name (value) must be ..."."""
    key = ".".join(map(str, error["loc"])) or "the file"
    brief = reprlib.Repr()
    brief.maxlevel = 1
    match error["type"]:
        case "missing":
            return f"{key} is missing"
        case "extra_forbidden":
            return f"{key} is not a known parameter"
        case "value_error":
            return str(error["ctx"]["error"])
        case "model_type":
            return f"{key} ({brief.repr(error['input'])}) must be a mapping"
        case "less_than":  # pydantic writes all 300 digits
            return f"{key} ({brief.repr(error['input'])}) must be less than {error['ctx']['lt']}"
    rule = error["msg"].partition(" should ")[2] or error["msg"]
    return f"{key} ({brief.repr(error['input'])}) must {rule}"


def load_params():
    """Return the checked contents of params.yaml. A ValueError names each invalid parameter."""
    values = read_yaml(PARAMS)
    for name in flatten(values):
        if name in RENAMED:
            raise ValueError(f"{PARAMS}: {name} was renamed to {RENAMED[name]}")
        if name in REMOVED:
            raise ValueError(f"{PARAMS}: {name} was removed; delete this line")
    return check_params(values)


def check_params(values):
    """Return nested dicts as Params. A ValueError names each invalid parameter."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        problems = [describe(one) for one in error.errors()[:5]]
        if error.error_count() > 5:
            problems.append(f"and {error.error_count() - 5} more")
        raise ValueError(f"{PARAMS}: {'; '.join(problems)}") from None
