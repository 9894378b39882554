"""The start of a training run: the params, the encoded text, and the initial model."""

from dataclasses import dataclass

import numpy as np

from baregpt.model import GPT, Config
from baregpt.trainer import TrainConfig
from baregpt.vocab import Vocab
from baregpt.weights import load_weights
from pipeline.common.params import Params, check_params, load_params
from pipeline.common.splits import load_splits
from pipeline.common.stage import encode_prompt
from pipeline.training.memory import check_memory

EXCERPT_LENGTH = 40  # characters


@dataclass
class TrainingSetup:
    """What a training run starts from. corpus: the checksums of the corpus."""

    params: Params
    model: GPT
    vocab: Vocab
    corpus: dict
    train_ids: np.ndarray
    validation_ids: np.ndarray

    @property
    def config(self):
        return TrainConfig(**self.params.train.model_dump(exclude={"init"}))

    @property
    def characters_per_step(self):
        return self.params.train.batch_size * self.model.config.block_size

    @property
    def excerpt(self):
        """The default prompt of the model: up to EXCERPT_LENGTH characters, at most block_size, of
        the held-out text after its first newline, or from its beginning if it has none.
        """
        text = self.vocab.decode(self.validation_ids[:1000])
        length = min(EXCERPT_LENGTH, self.model.config.block_size)
        start = text.find("\n") + 1
        return text[start : start + length] or text[:length]


def load_training_setup(ranks=1):
    """Return the TrainingSetup of the params in params.yaml.

    With train.init, the model, its config and its vocabulary are those of that weights file, and
    the params of the setup have its config instead of model.* in params.yaml. Raises ValueError,
    with the parameter to change, if params and text do not fit together.
    """
    params = load_params()
    vocab, corpus, *splits = load_splits()
    if params.train.init is None:
        check_memory(params, len(vocab), ranks)
        model = GPT(Config(len(vocab), **params.model.model_dump()), params.train.seed)
    else:
        model, file_vocab = load_weights(params.train.init)
        splits = reencode(splits, vocab, file_vocab, params)
        params, vocab = with_config(params, model.config), file_vocab
        check_memory(params, len(vocab), ranks)
    check_lengths(params, *splits)
    check_prompts(params, vocab)
    return TrainingSetup(params, model, vocab, corpus, *splits)


def with_config(params, config):
    """Return params with the config of a model as model.*. Raises ValueError if other params do not
    fit it.
    """
    values = params.model_dump()
    values["model"] = {name: getattr(config, name) for name in values["model"]}
    values["train"]["init"] = None  # so that plot_attention is checked with this config
    return params.model_copy(update={"model": check_params(values).model})


def reencode(splits, vocab, file_vocab, params):
    """Return ids of `vocab` as ids of `file_vocab`. Raises ValueError if it lacks characters."""
    unknown = [i for i, c in enumerate(vocab.characters) if c not in file_vocab.characters]
    if unknown:
        counts = {i: sum(int((ids == i).sum()) for ids in splits) for i in unknown}
        most = sorted(unknown, key=lambda i: -counts[i])[:20]
        listed = ", ".join(f"{vocab.characters[i]!r} {counts[i]}x" for i in most)
        more = f" and {len(unknown) - len(most)} more" * (len(unknown) > len(most))
        raise ValueError(
            f"corpus {params.corpus.path} has characters outside the vocabulary of train.init"
            f" ({params.train.init}): {listed}{more}; replace or remove them, as shown in"
            " docs/experiments.md"
        )
    table = file_vocab.encode(vocab.characters).astype(np.min_scalar_type(len(file_vocab)))
    return [table[ids] for ids in splits]


def check_lengths(params, train_ids, validation_ids):
    """Raise ValueError if a split is too short for a window of block_size characters plus the
    character that follows it.
    """
    corpus, block_size = params.corpus, params.model.block_size
    splits = {"training": (train_ids, "decrease"), "validation": (validation_ids, "increase")}
    for name, (ids, change) in splits.items():
        if len(ids) <= block_size:
            raise ValueError(
                f"the {name} split of {corpus.path} has {len(ids)} characters, but must have more"
                f" than model.block_size ({block_size}); use a longer text, {change}"
                f" corpus.validation_fraction ({corpus.validation_fraction}) or decrease"
                " model.block_size"
            )


def check_prompts(params, vocab):
    """Raise ValueError if a prompt in params.yaml has characters outside the vocabulary."""
    for section in ("sample", "plot_attention"):
        if prompt := getattr(params, section).prompt:
            encode_prompt(vocab, prompt, f"{section}.prompt")
