"""Generate text with data/weights.pkl if it exists, otherwise with the pretrained weights."""

import argparse
import os
import re
import sys
from itertools import chain
from pathlib import Path

from baregpt import generate, load_weights
from baregpt.weights import PRETRAINED

WEIGHTS = Path("data/weights.pkl")


def unescape(text):
    r"""Replace the escape sequences \n, \t and \\ with the characters that they stand for."""
    return re.sub(r"\\([nt\\])", lambda match: {"n": "\n", "t": "\t"}.get(match[1], "\\"), text)


def main():
    """Exit with code 0, or with 1 after a one-line error, or with 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="baregpt", description=__doc__)

    def add(name, kind, default, description):
        parser.add_argument(name, type=kind, default=default, help=description)

    add("--prompt", unescape, None, "text to continue (default: a newline)")
    add("--length", int, 512, "number of characters to generate (default: 512)")
    add("--temperature", float, 0.8, "sampling temperature; 0 is greedy decoding (default: 0.8)")
    add("--top-k", int, 20, "sample from the k most likely characters; 0: no limit (default: 20)")
    add("--seed", int, None, "random seed (default: a different one each time)")
    add("--weights", Path, WEIGHTS if WEIGHTS.exists() else PRETRAINED, "weights file to use")
    args = parser.parse_args()
    try:
        if args.length < 0:
            raise ValueError(f"--length must be at least 0, got {args.length}")
        model, vocab = load_weights(args.weights)
        newline = "\n" if "\n" in vocab.characters else vocab.characters[0]
        prompt = newline if args.prompt is None else args.prompt
        text = generate(model, vocab, prompt, args.length, args.temperature, args.top_k, args.seed)
        print(f"weights: {args.weights}", file=sys.stderr, flush=True)
        sys.stdout.reconfigure(errors="replace")  # type: ignore  # the terminal may not be UTF-8
        for piece in chain([prompt], text, ["\n"]):
            print(piece, end="", flush=True)
    except BrokenPipeError:  # the reading process, such as `head`, has ended
        # so that the flush at exit cannot fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
