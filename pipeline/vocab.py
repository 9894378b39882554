"""vocab: the characters of the text, and the text as ids in a training and a validation split."""

import json

import numpy as np

from baregpt.files import atomic_write
from baregpt.vocab import Vocab
from pipeline.params import load_params
from pipeline.stage import CORPUS, TEXT, TRAIN_IDS, VALIDATION_IDS, VOCAB, run


def build_vocab():
    text = TEXT.read_text(encoding="utf-8")
    vocab = Vocab.from_text(text)
    ids = vocab.encode(text).astype(np.min_scalar_type(len(vocab)))
    split = int(len(ids) * (1 - load_params().corpus.validation_share))
    with atomic_write(VOCAB) as file:
        contents = {"characters": vocab.characters, "corpus": json.loads(CORPUS.read_text())}
        file.write(json.dumps(contents, ensure_ascii=False, indent=2).encode() + b"\n")
    for path, part in {TRAIN_IDS: ids[:split], VALIDATION_IDS: ids[split:]}.items():
        with atomic_write(path) as file:
            np.save(file, part)
    print(f"{len(vocab)} characters in the vocabulary, {split:,} to train on, {len(ids) - split:,} held out")


if __name__ == "__main__":
    run(build_vocab)
