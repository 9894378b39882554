"""Compute the loss of a model on the last part of a text."""

import argparse
import math
from pathlib import Path

import numpy as np
from tqdm import tqdm

from baregpt.trainer import evaluate
from baregpt.weights import load_weights
from pipeline.common.corpus import decode_corpus, read_corpus
from pipeline.common.heads import IDLE, LOW_ENTROPY, head_statistics
from pipeline.common.params import load_params
from pipeline.common.paths import WEIGHTS
from pipeline.common.stage import run


def parse_args():
    corpus = load_params().corpus
    parser = argparse.ArgumentParser(prog="python -m pipeline.evaluate", description=__doc__)
    parser.add_argument(
        "text", nargs="?", default=corpus.path,
        help="UTF-8 text file (default: corpus.path in params.yaml)",
    )  # fmt: skip
    parser.add_argument(
        "--weights", type=Path, default=WEIGHTS, help="weights file (default: %(default)s)"
    )
    parser.add_argument(
        "--fraction", type=float, default=corpus.validation_fraction,
        help="fraction of the text to score, taken from the end"
        " (default: corpus.validation_fraction in params.yaml)",
    )  # fmt: skip
    parser.add_argument(
        "--heads", action="store_true", help="also measure the effect of each attention head"
    )
    parser.add_argument(
        "--windows", type=int, default=64,
        help="number of windows of block_size characters for --heads (default: %(default)s)",
    )  # fmt: skip
    args = parser.parse_args()
    if not 0 < args.fraction <= 1:
        raise ValueError(f"--fraction ({args.fraction}) must be greater than 0 and at most 1")
    if args.windows < 1:
        raise ValueError(f"--windows ({args.windows}) must be at least 1")
    return args


def print_heads(model, ids, max_windows):
    """Print the effect of switching off attention heads, and the entropy of their weights."""
    heads = head_statistics(model, ids, max_windows, lambda items: tqdm(items, disable=None))
    count = heads.increases.size
    print(f"\nattention heads, on {heads.n_windows} windows of {heads.length} characters:")
    print("layer  head  loss increase  entropy")
    for (layer, head), increase in np.ndenumerate(heads.increases):
        entropy = heads.entropies[layer, head]
        print(f"{layer + 1:5}  {head + 1:4}  {increase:+13.4f}  {entropy:7.0%}")
    low, idle = (heads.entropies < LOW_ENTROPY).sum(), (abs(heads.increases) < IDLE).sum()
    print(f"all heads off: {heads.increase_all_off:+.3f} nats per character")
    print(
        f"{low} of {count} heads have under {LOW_ENTROPY:.0%} of the entropy of uniform attention"
    )
    print(
        f"{idle} of {count} heads are idle: switched off alone, they change the loss by less than"
        f" {IDLE}"
    )


def main():
    args = parse_args()
    model, vocab = load_weights(args.weights)
    ids = vocab.encode(decode_corpus(read_corpus(args.text), args.text))
    held_out = ids[int(len(ids) * (1 - args.fraction)) :]
    if len(held_out) < 2:
        raise ValueError(
            f"--fraction must leave at least 2 characters of {args.text}, not {len(held_out)}"
        )

    def map_with_bar(score, windows):
        return map(score, tqdm(windows, disable=None))

    loss = evaluate(model, held_out, parallel_map=map_with_bar)
    print(
        f"{args.weights} on the last {len(held_out):,} of {len(ids):,} characters of {args.text}:"
    )
    print(f"loss {loss:.4f} nats per character = {loss / math.log(2):.4f} bits per character")
    if args.heads:
        print_heads(model, held_out, args.windows)


if __name__ == "__main__":
    run(main)
