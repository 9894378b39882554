"""vocab: the characters of the text, and the text as ids in a training and a validation split."""

import hashlib
import json

import numpy as np

from baregpt.files import atomic_write
from baregpt.vocab import Vocab
from pipeline.common.params import load_params
from pipeline.common.stage import CORPUS, TEXT, TRAIN_IDS, VALIDATION_IDS, VOCAB, run

PART = 1 << 20  # characters encoded at once: as plain integers they take eight times the memory


def build_vocab():
    text = TEXT.read_text(encoding="utf-8")
    vocab = Vocab.from_text(text)
    parts = [text[i : i + PART] for i in range(0, len(text), PART)]
    kind = np.min_scalar_type(len(vocab))
    ids = np.concatenate([vocab.encode(part).astype(kind) for part in parts])
    split = int(len(ids) * (1 - load_params().corpus.validation_share))
    checksums = {}
    for path, part in {TRAIN_IDS: ids[:split], VALIDATION_IDS: ids[split:]}.items():
        with atomic_write(path) as file:
            np.save(file, part)
        checksums[path.name] = hashlib.sha256(part.data).hexdigest()
    corpus = json.loads(CORPUS.read_text())
    contents = {"characters": vocab.characters, "corpus": corpus, "ids_sha256": checksums}
    with atomic_write(VOCAB) as file:  # the last of them, so that it always speaks of what is there
        file.write(json.dumps(contents, ensure_ascii=False, indent=2).encode() + b"\n")
    splits = f"{split:,} to train on, {len(ids) - split:,} held out"
    print(f"{len(vocab)} characters in the vocabulary, {splits}")


def read_splits():
    """(vocab, the corpus's checksums, ids to train on, ids held out); ValueError if they are not
    what this stage made.
    """
    try:
        contents = json.loads(VOCAB.read_text(encoding="utf-8"))
        vocab, corpus = Vocab(contents["characters"]), contents["corpus"]
        splits = np.load(TRAIN_IDS), np.load(VALIDATION_IDS)
        checksums = [hashlib.sha256(ids.data).hexdigest() for ids in splits]
        if checksums != list(contents["ids_sha256"].values()):
            raise ValueError("the ids are of another text")
    except (ValueError, EOFError, KeyError, TypeError) as error:
        these = f"{VOCAB}, {TRAIN_IDS} and {VALIDATION_IDS}"
        anew = "`dvc repro --force vocab` makes them anew"
        raise ValueError(f"{these} do not go together ({error}): {anew}") from None
    return vocab, corpus, *splits


if __name__ == "__main__":
    run(build_vocab, "vocab")
