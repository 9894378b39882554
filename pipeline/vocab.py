"""vocab: collect the vocabulary; encode the text into a training and a validation split."""

import json

import numpy as np

from baregpt.vocab import Vocab
from pipeline.common.params import load_params
from pipeline.common.paths import CORPUS, TEXT
from pipeline.common.splits import save_splits
from pipeline.common.stage import run

CHUNK = 1 << 20  # characters encoded at a time: Vocab.encode takes eight bytes for each


def main():
    text = TEXT.read_text(encoding="utf-8")
    vocab = Vocab.from_text(text)
    dtype = np.min_scalar_type(len(vocab))
    chunks = [text[i : i + CHUNK] for i in range(0, len(text), CHUNK)]
    ids = np.concatenate([vocab.encode(chunk).astype(dtype) for chunk in chunks])
    split = int(len(ids) * (1 - load_params().corpus.validation_fraction))
    save_splits(vocab, json.loads(CORPUS.read_text()), ids[:split], ids[split:])
    print(
        f"vocabulary of {len(vocab)} characters; {split:,} characters for training,"
        f" {len(ids) - split:,} for validation"
    )


if __name__ == "__main__":
    run(main, "vocab", __doc__)
