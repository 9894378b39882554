"""Stream text from a trained model: from data/weights.pkl, or else data/pretrained.pkl.

With neither, train on data/plays.txt first, in a few minutes.
"""

import argparse
import sys
from itertools import chain
from pathlib import Path

from baregpt import GPT, Config, Vocab, generate, load_weights, save_weights
from baregpt.trainer import Training, train

WEIGHTS, PRETRAINED, CORPUS = Path("data/weights.pkl"), Path("data/pretrained.pkl"), Path("data/plays.txt")


def train_from_scratch(settings):
    """Train the default model on the bundled corpus and save it where the next call finds it."""
    text = CORPUS.read_text(encoding="utf-8")
    vocab = Vocab.from_text(text)
    ids = vocab.encode(text)
    split = int(len(ids) * 0.9)
    model = GPT(Config(len(vocab)), settings.seed)
    shape = {**vars(model.config), "batch_size": settings.batch_size}.items()
    print("Model configuration:", *(f"- {name + ':':<12}{value!s:>10}" for name, value in shape), sep="\n")
    print(f"Total params: {model.n_parameters:,}\n\nTraining on {CORPUS}; Ctrl-C stops.")
    for step, loss, validation, *_ in train(model, ids[:split], ids[split:], settings):
        if step == 1 or validation is not None:
            held_out = "" if validation is None else f", validation={validation:.4f}"
            print(f"step {step}, loss={loss:.4f}{held_out}", flush=True)
    save_weights(WEIGHTS, model, vocab, {"steps": settings.steps})
    print(f"Weights saved to {WEIGHTS}\n")


def main():
    """Exit code 0, 1 after a one-line error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m baregpt", description=__doc__)
    add = parser.add_argument
    add("--prompt", default="\n", help="text to go on from (default: an empty line)")
    add("--length", type=int, default=512, help="characters to write (default: %(default)s)")
    add("--temperature", type=float, default=0.8, help="0: always the likeliest; higher: bolder (default: %(default)s)")
    add("--top-k", type=int, default=20, help="draw from the k likeliest only; 0: from all (default: %(default)s)")
    add("--seed", type=int, help="the same seed gives the same text (default: different every time)")
    add("--weights", type=Path, help="the weights file to use instead")
    options = parser.parse_args()
    try:
        if not (options.weights or WEIGHTS.exists() or PRETRAINED.exists()):
            train_from_scratch(Training())
        model, vocab = load_weights(options.weights or (WEIGHTS if WEIGHTS.exists() else PRETRAINED))
        text = generate(model, vocab, options.prompt, options.length, options.temperature, options.top_k, options.seed)
        for piece in chain([options.prompt], text, ["\n"]):
            print(piece, end="", flush=True)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
