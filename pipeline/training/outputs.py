"""The outputs of the train stage: weights, metrics, loss curves and snapshots."""

import contextlib
import json
import os

import numpy as np

from baregpt.files import atomic_write
from baregpt.weights import save_weights
from pipeline.common import paths

# Only under DVC, which has removed the previous curves, are curves written during training.
IS_LIVE = "DVC_STAGE" in os.environ


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


def plot_curves(progress):
    """Plot both loss curves, in nats per character, and mark the best step."""
    from matplotlib.figure import Figure  # on rank 0 only

    train_curve, validation_curve = progress.train_curve, dict(progress.validation_curve)
    best = min(validation_curve, key=validation_curve.__getitem__)
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    (line,) = axes.plot(
        range(1, len(train_curve) + 1), train_curve, label="training batch", linewidth=0.8
    )
    line.set_alpha(0.4)
    axes.plot(*zip(*validation_curve.items()), "o-", label="validation", markersize=4)
    label = f"best: {validation_curve[best]:.3f} at step {best:,}"
    point = best, validation_curve[best]
    axes.annotate(label, point, (0, 8), textcoords="offset points", ha="right", va="bottom")
    axes.set(xlabel="step", ylabel="loss (nats per character)", title="Loss")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(paths.LOSS_PLOT) as file:
        figure.savefig(file, format="png")


def write_outputs(setup, progress, snapshots, validation_loss):
    """Write all outputs of the stage; return the metrics.

    validation_loss: that of the best weights over the whole split.
    """
    best_step, config = progress.best_step, setup.config
    interval = progress.train_curve[max(0, best_step - config.evaluation_interval) : best_step]
    metrics = {
        "train_loss": round(float(np.mean(interval)), 6),  # over the interval before the best step
        "validation_loss": round(validation_loss, 6),
        "best_step": best_step,
        "parameters": setup.model.n_parameters,
        "characters_seen": setup.characters_per_step * best_step,
    }
    metadata = {"corpus_sha256": setup.corpus["sha256"], "excerpt": setup.excerpt}
    metadata |= {"steps": config.steps} | metrics
    save_weights(paths.WEIGHTS, setup.model, setup.vocab, metadata)
    write_curves(progress)
    plot_curves(progress)
    snapshots.write(paths.SNAPSHOTS)
    with atomic_write(paths.METRICS) as file:
        file.write(json.dumps(metrics, indent=2).encode() + b"\n")
    print(
        f"best step {best_step}: validation loss {validation_loss:.4f} over the whole split",
        flush=True,
    )
    return metrics
