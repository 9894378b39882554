"""The outputs of the train stage: weights, metrics, loss curves and snapshots."""

import contextlib
import json
import os

import numpy as np

from baregpt.files import atomic_write
from baregpt.weights import save_weights
from pipeline.common import paths
from pipeline.training.snapshots import max_length, snapshot_steps, write_snapshots

# Only under DVC, which has removed the previous curves, are curves written during training.
IS_LIVE = "DVC_STAGE" in os.environ
EXCERPT_LENGTH = 40  # characters of the held-out text that the weights store as a default prompt


def excerpt(vocab, ids, block_size):
    """Return up to EXCERPT_LENGTH characters of the held-out text from its first line start, but at
    most block_size; from its beginning if it is a single line.
    """
    text, length = vocab.decode(ids[:1000]), min(EXCERPT_LENGTH, block_size)
    start = text.find("\n") + 1
    return text[start : start + length] or text[:length]


def snapshot_line(vocab, ids, config):
    """Return the part of the excerpt of which snapshots are taken."""
    return excerpt(vocab, ids, config.block_size)[: max_length(config)]


def write_curves(progress):
    """Write both loss curves, of all steps so far, as CSV."""
    curves = {
        paths.TRAIN_LOSS: enumerate(progress.train_curve, 1),
        paths.VALIDATION_LOSS: progress.validation_curve,
    }
    for path, curve in curves.items():
        with atomic_write(path) as file:
            file.write(f"step,{path.stem}\n".encode())
            file.writelines(f"{step},{loss:.6f}\n".encode() for step, loss in curve)


@contextlib.contextmanager
def delete_curves_on_error():
    """Delete the curves so far if the block fails, because `dvc checkout` refuses to replace them
    with the previous ones.
    """
    try:
        yield
    except BaseException:
        for path in (paths.TRAIN_LOSS, paths.VALIDATION_LOSS) if IS_LIVE else ():
            path.unlink(missing_ok=True)
        raise


def write_outputs(model, vocab, corpus, validation_ids, validation_loss, config, progress):
    """Write all outputs of the stage; return the metrics."""
    from pipeline.training.curves import plot_curves  # Matplotlib: on rank 0 only

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
    write_curves(progress)
    train_curve = dict(enumerate(progress.train_curve, 1))
    plot_curves(paths.LOSS_PLOT, train_curve, dict(progress.validation_curve))
    line, steps = snapshot_line(vocab, validation_ids, model.config), snapshot_steps(config.steps)
    write_snapshots(paths.SNAPSHOTS, line, steps, progress.snapshots)
    with atomic_write(paths.METRICS) as file:
        file.write(json.dumps(metrics, indent=2).encode() + b"\n")
    print(
        f"best step {best_step}: validation loss {validation_loss:.4f} over the whole split",
        flush=True,
    )
    return metrics
