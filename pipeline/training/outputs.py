"""The outputs of the train stage: weights, metrics, loss curves and snapshots."""

import json

import numpy as np

from baregpt.files import atomic_write
from baregpt.weights import save_weights
from pipeline.common import paths
from pipeline.training.snapshots import max_length, snapshot_steps, write_snapshots

EXCERPT_LENGTH = 40  # characters of the held-out text that the weights store as a default prompt


def excerpt(vocab, ids, block_size):
    """Return up to EXCERPT_LENGTH characters of the held-out text from its first line start, but at
    most block_size; from its beginning if it is a single line.
    """
    text = vocab.decode(ids[:1000])
    start = text.find("\n") + 1
    return text[start : start + min(EXCERPT_LENGTH, block_size)] or text[:block_size]


def snapshot_line(vocab, ids, config):
    """Return the part of the excerpt of which snapshots are taken."""
    return excerpt(vocab, ids, config.block_size)[: max_length(config)]


def write_outputs(model, vocab, corpus, validation_ids, validation_loss, config, progress):
    """Write all outputs of the stage; return the metrics."""
    from pipeline.training.curves import plot_curves, write_curve  # Matplotlib: on rank 0 only

    best_step, block_size = progress.best_step, model.config.block_size
    interval = progress.train_curve[max(0, best_step - config.evaluation_interval) : best_step]
    metrics = {
        "train_loss": round(float(np.mean(interval)), 6),  # over the interval before the best step
        "validation_loss": round(validation_loss, 6),  # over the whole split
        "best_step": best_step,
        "parameters": model.n_parameters,
        "characters_seen": config.batch_size * block_size * best_step,
    }
    prompt = excerpt(vocab, validation_ids, block_size)
    metadata = {"corpus_sha256": corpus["sha256"], "excerpt": prompt, "steps": config.steps}
    save_weights(paths.WEIGHTS, model, vocab, metadata | metrics)
    train_curve = dict(enumerate(progress.train_curve, 1))
    validation_curve = dict(progress.validation_curve)
    write_curve(paths.TRAIN_LOSS, "train_loss", train_curve)
    write_curve(paths.VALIDATION_LOSS, "validation_loss", validation_curve)
    plot_curves(paths.LOSS_PLOT, train_curve, validation_curve)
    line, steps = snapshot_line(vocab, validation_ids, model.config), snapshot_steps(config.steps)
    write_snapshots(paths.SNAPSHOTS, line, steps, progress.snapshots)
    with atomic_write(paths.METRICS) as file:
        file.write(json.dumps(metrics, indent=2).encode() + b"\n")
    print(
        f"best step {best_step}: validation loss {validation_loss:.4f} over the whole split",
        flush=True,
    )
    return metrics
