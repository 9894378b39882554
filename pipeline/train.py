"""train: the model, its loss curve and its metrics, followed by MLflow."""

import json
import math
import time
from itertools import chain

import numpy as np
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from baregpt.files import atomic_write
from baregpt.model import GPT, Config
from baregpt.trainer import Training, evaluate, train
from baregpt.vocab import Vocab
from baregpt.weights import save_weights
from pipeline import tracking
from pipeline.params import load_params
from pipeline.stage import (
    LOSS_PICTURE,
    METRICS,
    TRAIN_IDS,
    TRAIN_LOSS,
    VALIDATION_IDS,
    VALIDATION_LOSS,
    VOCAB,
    WEIGHTS,
    keep_freed_memory,
)
from pipeline.stage import run as run_stage


def parameter_counts(model):
    """Parameters in all, and by part: the blocks' parts taken together over all layers."""
    counts = {"parameters.total": model.n_parameters}
    for name, parameter in model.parameters.items():
        words = name.split(".")
        part = f"parameters.{words[2] if words[0] == 'blocks' else words[0]}"
        counts[part] = counts.get(part, 0) + parameter.size
    return counts


def write_curve(path, name, curve):
    """A loss curve, step -> nats a character, as CSV."""
    with atomic_write(path) as file:
        file.write(f"step,{name}\n".encode())
        file.writelines(f"{step},{loss:.6f}\n".encode() for step, loss in curve.items())


def draw_curves(path, train_curve, validation_curve):
    """Both loss curves in one picture."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(
        *zip(*train_curve.items(), strict=True), color="tab:blue", alpha=0.4, linewidth=0.8, label="training batch"
    )
    axes.plot(*zip(*validation_curve.items(), strict=True), "o-", color="tab:orange", markersize=4, label="validation")
    best = min(validation_curve, key=validation_curve.__getitem__)
    label = f"{validation_curve[best]:.3f} at step {best:,}, kept"
    axes.annotate(label, (best, validation_curve[best]), (0, 8), textcoords="offset points", ha="right", va="bottom")
    axes.set(xlabel="step", ylabel="loss, nats a character", title="Loss")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def main():
    keep_freed_memory()
    params = load_params()
    contents = json.loads(VOCAB.read_text(encoding="utf-8"))
    vocab, corpus = Vocab(contents["characters"]), contents["corpus"]
    train_ids, validation_ids = np.load(TRAIN_IDS), np.load(VALIDATION_IDS)
    settings = Training(**params.train.model_dump())
    model = GPT(Config(len(vocab), **params.model.model_dump()), settings.seed)
    characters = settings.batch_size * model.config.block_size  # seen in each step
    print(f"{model.n_parameters:,} parameters, {settings.steps:,} steps of {characters:,} characters")

    steps = train(model, train_ids, validation_ids, settings)
    steps = chain([next(steps)], steps)  # if something is wrong from the start, it shows before a run is opened
    train_curve, validation_curve = dict[int, float](), dict[int, float]()
    with tracking.training_run(params.model_dump(), corpus["md5"], parameter_counts(model)) as run:
        start = time.perf_counter()
        bar = tqdm(total=settings.steps, unit="step", disable=None)  # None: quiet when not a terminal
        with bar:
            for step, train_loss, validation_loss, learning_rate, norm in steps:
                train_curve[step] = train_loss
                if validation_loss is not None:
                    if not math.isfinite(validation_loss):
                        raise ValueError(f"training diverged at step {step}: lower the learning rate")
                    if validation_loss < min(validation_curve.values(), default=math.inf):
                        best_step, best = step, model.flat.copy()
                    validation_curve[step] = validation_loss
                    bar.clear()
                    print(
                        f"step {step}: train loss {train_loss:.4f}, validation loss {validation_loss:.4f}", flush=True
                    )
                bar.set_postfix(loss=f"{train_loss:.3f}", refresh=False)
                bar.update()
                run.log(
                    step,
                    train_loss=train_loss,
                    validation_loss=validation_loss,
                    learning_rate=learning_rate,
                    gradient_norm=norm,
                    characters_per_second=characters * step / (time.perf_counter() - start),
                )

        model.flat[:] = best
        with threadpool_limits(1):  # the number of threads moves the last bits
            validation_loss = evaluate(model, validation_ids)
        before = [loss for step, loss in train_curve.items() if 0 <= best_step - step < settings.evaluation_interval]
        metrics = {
            "train_loss": round(float(np.mean(before)), 6),  # over the evaluation interval before the best step
            "validation_loss": round(validation_loss, 6),  # over the whole split
            "best_step": best_step,
            "parameters": model.n_parameters,
            "characters_seen": characters * best_step,  # by the weights that are kept
        }
        metadata = {"corpus_sha256": corpus["sha256"], "steps": settings.steps, **metrics}
        save_weights(WEIGHTS, model, vocab, metadata)
        write_curve(TRAIN_LOSS, "train_loss", train_curve)
        write_curve(VALIDATION_LOSS, "validation_loss", validation_curve)
        draw_curves(LOSS_PICTURE, train_curve, validation_curve)
        with atomic_write(METRICS) as file:
            file.write(json.dumps(metrics, indent=2).encode() + b"\n")
        print(f"step {best_step} was best: validation loss {validation_loss:.4f} over the whole split")
        run.log(best_step, final_train_loss=metrics["train_loss"], final_validation_loss=metrics["validation_loss"])
        run.finish(WEIGHTS, [VOCAB, LOSS_PICTURE])


if __name__ == "__main__":
    run_stage(main)
