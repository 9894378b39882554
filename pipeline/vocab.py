"""vocab: the characters of the text, and the text as ids in a training and a validation split."""

import hashlib
import json

import numpy as np

from baregpt.files import atomic_write
from baregpt.vocab import Vocab
from pipeline.params import load_params
from pipeline.stage import CORPUS, TEXT, TRAIN_IDS, VALIDATION_IDS, VOCAB, run

PART = 1 << 20  # characters encoded at once: as plain integers they take eight times the memory


def build_vocab():
    text = TEXT.read_text(encoding="utf-8")
    vocab = Vocab.from_text(text)
    parts = (vocab.encode(text[i : i + PART]).astype(np.min_scalar_type(len(vocab))) for i in range(0, len(text), PART))
    ids = np.concatenate(list(parts))
    split = int(len(ids) * (1 - load_params().corpus.validation_share))
    checksums = {}
    for path, part in {TRAIN_IDS: ids[:split], VALIDATION_IDS: ids[split:]}.items():
        with atomic_write(path) as file:
            np.save(file, part)
        checksums[path.name] = hashlib.sha256(part.data).hexdigest()
    contents = {"characters": vocab.characters, "corpus": json.loads(CORPUS.read_text()), "ids_sha256": checksums}
    with atomic_write(VOCAB) as file:  # the last of them, so that it always speaks of what is there
        file.write(json.dumps(contents, ensure_ascii=False, indent=2).encode() + b"\n")
    print(f"{len(vocab)} characters in the vocabulary, {split:,} to train on, {len(ids) - split:,} held out")


if __name__ == "__main__":
    run(build_vocab)
