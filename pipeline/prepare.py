"""prepare: check the corpus and normalize its line endings."""

import hashlib
import json

from baregpt.files import atomic_write
from pipeline.common.corpus import decode_corpus, read_corpus
from pipeline.common.params import load_params
from pipeline.common.paths import CORPUS, TEXT
from pipeline.common.stage import run


def main():
    corpus = load_params().corpus
    data = read_corpus(corpus.path)
    checksums = {name: hashlib.new(name, data).hexdigest() for name in ("md5", "sha256")}
    if corpus.sha256 not in (None, checksums["sha256"]):
        raise ValueError(
            f"corpus {corpus.path} has sha256 {checksums['sha256']}, but corpus.sha256 is"
            f" {corpus.sha256}"
        )
    text = decode_corpus(data, corpus.path)
    with atomic_write(TEXT) as file:
        file.write(text.encode())
    with atomic_write(CORPUS) as file:
        file.write(json.dumps(checksums, indent=2).encode() + b"\n")
    print(f"{corpus.path}: {len(text):,} characters")


if __name__ == "__main__":
    run(main, "prepare", __doc__)
