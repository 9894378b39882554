"""`python -m baregpt`: stream text from the weights at hand, or train when there are none."""

import argparse
import sys
import time
from pathlib import Path

from baregpt import GPT, Config, Vocab, generate, load_weights, save_weights
from baregpt.trainer import Training, train

WEIGHTS, PRETRAINED, CORPUS = Path("data/weights.pkl"), Path("data/pretrained.pkl"), Path("data/plays.txt")


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="python -m baregpt",
        description=f"Stream text from a trained model: from {WEIGHTS}, or else {PRETRAINED}. "
        f"With neither, train on {CORPUS} first, in a few minutes.",
    )
    add = parser.add_argument
    add("--prompt", default="\n", help="text to go on from (default: an empty line)")
    add("--length", type=int, default=512, help="characters to write (default: %(default)s)")
    add("--temperature", type=float, default=0.8, help="0: always the likeliest; higher: bolder (default: %(default)s)")
    add("--top-k", type=int, default=20, help="draw from the k likeliest only; 0: from all (default: %(default)s)")
    add("--seed", type=int, help="the same seed gives the same text (default: different every time)")
    add("--weights", type=Path, help="the weights file to use instead")
    return parser.parse_args()


def train_from_scratch(settings):
    """Train the default model on the bundled corpus and save it where the next call finds it."""
    text = CORPUS.read_text(encoding="utf-8")
    vocab = Vocab.from_text(text)
    ids = vocab.encode(text)
    split = int(len(ids) * 0.9)
    model = GPT(Config(len(vocab)), settings.seed)
    print("Model configuration:")
    for name, value in {**vars(model.config), "batch_size": settings.batch_size}.items():
        print(f"- {name + ':':<12}{value:>10}")
    print(f"Total params: {model.n_parameters:,}\n\nTraining on {CORPUS}; Ctrl-C stops.")
    start = time.perf_counter()
    for progress in train(model, ids[:split], ids[split:], settings):
        if progress.step == 1 or progress.validation_loss is not None:
            validation = f", validation={progress.validation_loss:.4f}" if progress.validation_loss else ""
            print(f"step {progress.step}, loss={progress.train_loss:.4f}{validation}", end=" ")
            print(f"({time.perf_counter() - start:.1f}s)", flush=True)
    save_weights(WEIGHTS, model, vocab, {"steps": settings.steps})
    print(f"Weights saved to {WEIGHTS}\n")


def main():
    """Exit code 0, 1 after a one-line error, 130 after Ctrl-C."""
    options = parse_arguments()
    try:
        if not (options.weights or WEIGHTS.exists() or PRETRAINED.exists()):
            train_from_scratch(Training())
        model, vocab = load_weights(options.weights or (WEIGHTS if WEIGHTS.exists() else PRETRAINED))
        text = generate(model, vocab, options.prompt, options.length, options.temperature, options.top_k, options.seed)
        print(options.prompt, end="")
        for character in text:
            print(character, end="", flush=True)
        print()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
