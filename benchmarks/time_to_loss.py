"""Time to loss: recipes/seconds.txt and nanoGPT's CPU recipe (python -m benchmarks.time_to_loss).

Both train alternately, with the full schedule and in a new process each time, and are scored on the
held-out last 10% of the text. The time is that of training.
"""

import argparse
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import yaml

from baregpt import GPT, Config, TrainConfig, Vocab
from baregpt import train as train_baregpt
from baregpt.trainer import evaluate
from benchmarks.bench import cpu_name

SHAKESPEARE, PLAYS = Path("data/shakespeare.txt"), Path("data/plays.txt")
RECIPE = Path("recipes/seconds.txt")


def read_splits():
    """(text file, vocabulary, training ids, validation ids)"""
    path = SHAKESPEARE if SHAKESPEARE.exists() else PLAYS
    text = path.read_text(encoding="utf-8")
    vocab = Vocab.from_text(text)
    return path, vocab, *np.split(vocab.encode(text), [int(len(text) * 0.9)])


def read_recipe(path):
    """params.yaml with the changes of a recipe."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            key, value = line.split("=")
            section, name = key.split(".")
            params[section][name] = yaml.safe_load(value)
    return params


def run_baregpt(seed):
    from pipeline.common.process import keep_freed_memory

    keep_freed_memory()  # as the train stage does
    _, vocab, train_ids, validation_ids = read_splits()
    params = read_recipe(RECIPE)
    del params["train"]["init"]  # used by the pipeline only
    config = TrainConfig(**params["train"] | {"seed": seed, "evaluation_interval": 10**9})
    start = time.perf_counter()
    model = GPT(Config(len(vocab), **params["model"]), seed)
    for _ in train_baregpt(model, train_ids, validation_ids, config):
        pass
    return time.perf_counter() - start, evaluate(model, validation_ids)


def run_nanogpt(seed):
    import torch

    from benchmarks import nanogpt

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    _, vocab, train_ids, validation_ids = read_splits()
    start = time.perf_counter()
    model = nanogpt.train(train_ids, len(vocab), seed)
    return time.perf_counter() - start, nanogpt.evaluate(model, validation_ids)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=2, help="number of training runs of each model (default: 2)"
    )
    rounds = parser.parse_args().rounds
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    path, *_ = read_splits()
    print(f"{path}, {cpu_name()}, {os.environ['OMP_NUM_THREADS']} threads")
    seconds = {"baregpt": [], "nanoGPT": []}
    losses = {"baregpt": [], "nanoGPT": []}
    context = multiprocessing.get_context("spawn")
    for seed in range(1, rounds + 1):
        for name, run in {"baregpt": run_baregpt, "nanoGPT": run_nanogpt}.items():
            with context.Pool(1) as pool:  # a process of its own
                elapsed, loss = pool.apply(run, (seed,))
            seconds[name].append(elapsed)
            losses[name].append(loss)
            print(f"{name:8s} seed {seed}: {elapsed:6.1f} s, loss {loss:.4f} nats per character")
    ratio = np.median(np.divide(seconds["baregpt"], seconds["nanoGPT"]))
    ours, theirs = (np.mean(losses[name]) for name in losses)
    print(
        f"baregpt takes {ratio:.3f} x the time of nanoGPT, with a loss of {ours:.4f} against"
        f" {theirs:.4f}"
    )


if __name__ == "__main__":
    main()
