"""The encoded training and validation splits, as `vocab` writes and `train` reads them."""

import hashlib
import json

import numpy as np

from baregpt.files import atomic_write
from baregpt.vocab import Vocab
from pipeline.common.paths import TRAIN_IDS, VALIDATION_IDS, VOCAB


def save_splits(vocab, corpus, train_ids, validation_ids):
    """Write both splits, and the vocabulary with their checksums and those of the corpus."""
    checksums = {}
    for path, ids in {TRAIN_IDS: train_ids, VALIDATION_IDS: validation_ids}.items():
        with atomic_write(path) as file:
            np.save(file, ids)
        checksums[path.name] = hashlib.sha256(ids.data).hexdigest()
    contents = {"characters": vocab.characters, "corpus": corpus, "ids_sha256": checksums}
    with atomic_write(VOCAB) as file:  # last: its checksums describe files that exist
        file.write(json.dumps(contents, ensure_ascii=False, indent=2).encode() + b"\n")


def load_splits():
    """Return (vocab, checksums of the corpus, train_ids, validation_ids). Raises ValueError if the
    files are damaged or not from the same run of `vocab`.
    """
    try:
        contents = json.loads(VOCAB.read_text(encoding="utf-8"))
        vocab, corpus = Vocab(contents["characters"]), contents["corpus"]
        splits = np.load(TRAIN_IDS), np.load(VALIDATION_IDS)
        checksums = [hashlib.sha256(ids.data).hexdigest() for ids in splits]
        if checksums != list(contents["ids_sha256"].values()):
            raise ValueError("checksums differ")
    except (ValueError, EOFError, KeyError, TypeError) as error:
        raise ValueError(
            f"{VOCAB}, {TRAIN_IDS} and {VALIDATION_IDS} do not match ({error});"
            " run `dvc repro --force vocab` to recreate them"
        ) from None
    return vocab, corpus, *splits
