"""train: the model, its loss curve and its metrics, followed by MLflow."""

import contextlib
import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from filelock import FileLock, Timeout
from threadpoolctl import threadpool_limits

from baregpt.files import atomic_write
from baregpt.model import GPT, Config
from baregpt.optimizer import Optimizer
from baregpt.trainer import Training, evaluate, train
from baregpt.weights import save_weights
from pipeline.common.inputs import Inputs
from pipeline.common.params import load_params
from pipeline.common.stage import (
    DATA,
    LOSS_PICTURE,
    METRICS,
    TRAIN_LOSS,
    VALIDATION_LOSS,
    WEIGHTS,
    encode_prompt,
    keep_freed_memory,
    run,
)
from pipeline.tracking import outbox
from pipeline.tracking.run_logger import Journal, begin_record
from pipeline.training import checkpoint
from pipeline.training import communicator as ranks
from pipeline.training.launcher import AS_RANK, launch
from pipeline.vocab import read_splits

EXCERPT = 40  # characters of the held-out text that the weights bring as a prompt


def main():
    launcher = load_params().ranks.launcher
    if not launcher:
        train_once()
        return
    try:
        launch(launcher)
    except BaseException:  # an interrupt, too: the ranks may have had no time to tell MLflow
        outbox.deliver_or_warn()
        raise


def train_once(group=None):
    """Train, unless another training is at work; a rank but the first leaves that to the first."""
    if group and group.rank:
        train_here(group)
        return
    try:
        with FileLock(DATA / "training.lock", timeout=0):
            for path in Inputs("train").outputs():
                for left in DATA.glob(f"{path.name}.*.tmp"):  # by a training killed while it wrote
                    left.unlink()
            train_here(group)
    except Timeout:
        other = f"another training is at work in this checkout: wait for it ({DATA}/training.lock)"
        raise ValueError(other) from None


def train_here(group):
    """Train, as one of a group of ranks or, with None, alone."""
    keep_freed_memory()
    first = group is None or group.rank == 0
    inputs, params = Inputs("train"), load_params()
    vocab, corpus, train_ids, validation_ids = read_splits()
    settings = Training(**params.train.model_dump())
    model = GPT(Config(len(vocab), **params.model.model_dump()), settings.seed)
    optimizer = Optimizer(model.parameters, settings)
    arrays = checkpoint.arrays_of(model, optimizer, best=model.flat.copy())
    progress, record, interval = checkpoint.Progress(), None, params.checkpoint.interval
    if first:
        check_prompts(params, vocab)
        characters = settings.batch_size * model.config.block_size
        shared = f", on {group.count} ranks" if group else ""
        steps = f"{settings.steps:,} steps of {characters:,} characters"
        print(f"{model.n_parameters:,} parameters, {steps}{shared}")
        resumed = checkpoint.resume(inputs, arrays)
        progress, record = resumed or (progress, begin_record(params, corpus, model))
    if group:
        same = checkpoint.identity(inputs)
        begun = (progress, interval) if first else None
        progress, interval = group.start(settings.shards, same, begun, arrays)
    share = group.share if group else None
    so_far = {"optimizer": optimizer, "taken": progress.steps}
    steps = train(model, train_ids, validation_ids, settings, **so_far, share=share)
    journal = Journal(inputs, record, progress, arrays, settings, model) if first else None
    with journal or contextlib.nullcontext(), ranks.said_by_first(group):
        follow(steps, model, progress, arrays, interval, journal, group)
        model.flat[:] = arrays["best"]
        # BLAS's number of threads would move the last bits
        with threadpool_limits(1), ThreadPoolExecutor() as pool:
            everywhere = group.share(pool.map) if group else pool.map
            loss = evaluate(model, validation_ids, parallel_map=everywhere)
        if group:
            group.part()
        if journal:
            journal.check_inputs()
            metrics = finish(model, vocab, loss, corpus, validation_ids, settings, progress)
            journal.finish(metrics)


def follow(steps, model, progress, arrays, interval, journal, group):
    """Go through the steps of a training, keep the weights that do best, and write it all down."""
    for step, train_loss, validation_loss, learning_rate, norm in steps:
        due = step == 1 or step % interval == 0
        losses_are_finite = math.isfinite(validation_loss or 0)
        if not losses_are_finite or (due and not np.isfinite(model.flat).all()):
            at = f"step {step} (gradient norm {norm:.4g}, learning rate {learning_rate:.4g})"
            raise ValueError(f"training diverged at {at}: lower the learning rate")
        if progress.note(step, train_loss, validation_loss):
            arrays["best"][:] = model.flat
        if journal:
            journal.note(step, train_loss, validation_loss, learning_rate, norm)
        if journal and due:
            journal.save()
        if group and due:
            group.wait_for_first()


def check_prompts(params, vocab):
    """ValueError, before all the work, if a stage after training could not read its prompt."""
    for section in ("sample", "plot_attention"):
        if prompt := getattr(params, section).prompt:
            encode_prompt(vocab, prompt, f"{section}.prompt")


def excerpt(vocab, ids, block_size):
    """The first line that begins in the held-out text, or how that text begins if it has none, cut
    off where a line of a terminal or the model's context ends.
    """
    text = vocab.decode(ids[:1000])
    begins = text.find("\n") + 1
    return text[begins : begins + min(EXCERPT, block_size)] or text[:block_size]


def finish(model, vocab, validation_loss, corpus, validation_ids, settings, progress):
    """Write everything that training makes; return its metrics."""
    from pipeline.training.curves import (  # takes a second: not for each rank
        draw_curves,
        write_curve,
    )

    best_step = progress.best_step
    before = progress.train_curve[max(0, best_step - settings.evaluation_interval) : best_step]
    metrics = {
        "train_loss": round(float(np.mean(before)), 6),  # over the interval before the best step
        "validation_loss": round(validation_loss, 6),  # over the whole split
        "best_step": best_step,
        "parameters": model.n_parameters,
        # by the weights that are kept
        "characters_seen": settings.batch_size * model.config.block_size * best_step,
    }
    opening = excerpt(vocab, validation_ids, model.config.block_size)
    metadata = {"corpus_sha256": corpus["sha256"], "excerpt": opening, "steps": settings.steps}
    save_weights(WEIGHTS, model, vocab, metadata | metrics)
    train_curve = dict(enumerate(progress.train_curve, 1))
    validation_curve = dict(progress.validation_curve)
    write_curve(TRAIN_LOSS, "train_loss", train_curve)
    write_curve(VALIDATION_LOSS, "validation_loss", validation_curve)
    draw_curves(LOSS_PICTURE, train_curve, validation_curve)
    with atomic_write(METRICS) as file:
        file.write(json.dumps(metrics, indent=2).encode() + b"\n")
    found = f"validation loss {validation_loss:.4f} over the whole split"
    print(f"step {best_step} was best: {found}", flush=True)
    return metrics


if __name__ == "__main__":
    if AS_RANK in sys.argv:
        ranks.run_rank(train_once)
    else:
        run(main, "train")
