"""Stream text from a trained model: from data/weights.pkl, or else data/pretrained.pkl.

With neither, train on data/plays.txt first, in a few minutes.
"""

import argparse
import sys
from itertools import chain
from pathlib import Path

import numpy as np

from baregpt import GPT, Config, Vocab, generate, load_weights, save_weights
from baregpt.trainer import TrainConfig, train

WEIGHTS, PRETRAINED = Path("data/weights.pkl"), Path("data/pretrained.pkl")
CORPUS = Path("data/plays.txt")


def train_from_scratch(settings):
    """Train the default model on the bundled corpus; save it where the next call finds it."""
    if not CORPUS.exists():
        raise ValueError(f"there are no weights in data/, nor {CORPUS} to train on: try --weights")
    text = CORPUS.read_text(encoding="utf-8")
    vocab = Vocab.from_text(text)
    train_ids, validation_ids = np.split(vocab.encode(text), [int(len(text) * 0.9)])
    model = GPT(Config(len(vocab)), settings.seed)
    print(f"There are no weights: training {model.n_parameters:,} parameters on {CORPUS} first")
    for step, loss, *_ in train(model, train_ids, validation_ids, settings):
        print(f"step {step} of {settings.steps}, loss={loss:.4f}", flush=True)
    save_weights(WEIGHTS, model, vocab)


def main():
    """Exit code 0, 1 after a one-line error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m baregpt", description=__doc__)
    add = parser.add_argument
    add("--prompt", default="\n", help="text to go on from (an empty line)")
    add("--length", type=int, default=512, help="characters to write (512)")
    add("--temperature", type=float, default=0.8, help="0: the likeliest; higher: bolder (0.8)")
    add("--top-k", type=int, default=20, help="draw from the k likeliest; 0: from all (20)")
    add("--seed", type=int, help="the same seed gives the same text (always another)")
    add("--weights", type=Path, help="the weights file to use instead")
    asked = parser.parse_args()
    try:
        if not (asked.weights or WEIGHTS.exists() or PRETRAINED.exists()):
            train_from_scratch(TrainConfig())
        path = asked.weights or (WEIGHTS if WEIGHTS.exists() else PRETRAINED)
        model, vocab = load_weights(path)
        how = asked.temperature, asked.top_k, asked.seed
        text = generate(model, vocab, asked.prompt, asked.length, *how)
        print(f"weights: {path}", file=sys.stderr, flush=True)
        sys.stdout.reconfigure(errors="replace")  # type: ignore  # a terminal of few characters
        for piece in chain([asked.prompt], text, ["\n"]):
            print(piece, end="", flush=True)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
