"""Paths of the files that stages read and write, relative to the checkout."""

import os
from pathlib import Path

# The checkout itself, even where DVC runs an experiment in a temporary copy of it.
CHECKOUT = Path(os.environ.get("DVC_ROOT", ".")).resolve()

PARAMS = Path("params.yaml")
DATA = Path("data")
CORPUS, TEXT, VOCAB = DATA / "corpus.json", DATA / "text.txt", DATA / "vocab.json"
TRAIN_IDS, VALIDATION_IDS = DATA / "train.npy", DATA / "validation.npy"
WEIGHTS, METRICS, SAMPLES = DATA / "weights.pkl", DATA / "metrics.json", DATA / "samples.txt"
TRAIN_LOSS, VALIDATION_LOSS = DATA / "train_loss.csv", DATA / "validation_loss.csv"
SNAPSHOTS = DATA / "snapshots.json"
LOSS_PLOT, ATTENTION_PLOT = DATA / "loss.png", DATA / "attention.png"
EXPLORER_PAGE = DATA / "explore.html"  # the stage's output, tracked by DVC
# Files that one stage writes and another reads.
STAGE_DATA = {CORPUS, TEXT, VOCAB, TRAIN_IDS, VALIDATION_IDS, WEIGHTS, SNAPSHOTS}
DOCS_EXPLORER_PAGE = Path("docs/explore.html")  # written by `python -m pipeline.explore`
PRETRAINED = Path("baregpt/pretrained.pkl")  # the pretrained weights, part of the package
PRETRAINED_SNAPSHOTS = Path("pipeline/explorer/pretrained_snapshots.json")
TRAINING_LOCK = DATA / "training.lock"  # held by an active training run
# In the checkout itself, where they outlive a temporary copy; tracked by neither DVC nor git.
CHECKPOINTS = Path(os.path.relpath(CHECKOUT / DATA / "checkpoints"))
OUTBOX = Path(os.path.relpath(CHECKOUT / DATA / "undelivered"))
