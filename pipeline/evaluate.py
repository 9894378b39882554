"""Score weights on the held-out part of a text: how well do they predict it?"""

import argparse
import math
from pathlib import Path

from tqdm import tqdm

from baregpt.trainer import evaluate
from baregpt.weights import load_weights
from pipeline.common.params import load_params
from pipeline.common.stage import WEIGHTS, run
from pipeline.prepare import clean, read_corpus


def main():
    corpus = load_params().corpus
    parser = argparse.ArgumentParser(prog="python -m pipeline.evaluate", description=__doc__)
    of_text = "a UTF-8 text file (default: corpus.path in params.yaml)"
    of_share = "the last part of the text to score (default: what was held out)"
    parser.add_argument("text", nargs="?", default=corpus.path, help=of_text)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="default: %(default)s")
    parser.add_argument("--share", type=float, default=corpus.validation_share, help=of_share)
    options = parser.parse_args()
    path, share = options.text, options.share
    if not 0 < share <= 1:
        raise ValueError(f"--share is {share}: it must be above 0 and at most 1")
    model, vocab = load_weights(options.weights)
    ids = vocab.encode(clean(read_corpus(path), path))
    held_out = ids[int(len(ids) * (1 - share)) :]
    if len(held_out) < 2:
        raise ValueError(f"{path} has {len(held_out)} characters to score: it takes at least 2")

    def map_with_bar(score, windows):
        return map(score, tqdm(windows, disable=None))

    loss = evaluate(model, held_out, parallel_map=map_with_bar)
    print(f"{options.weights} on the last {len(held_out):,} of {len(ids):,} characters of {path}:")
    print(f"loss {loss:.4f} nats a character = {loss / math.log(2):.4f} bits a character")


if __name__ == "__main__":
    run(main)
