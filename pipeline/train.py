"""train: the model, its loss curve and its metrics, followed by MLflow."""

import contextlib
import hashlib
import json
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

import numpy as np
from filelock import FileLock, Timeout
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from baregpt.files import atomic_write
from baregpt.model import GPT, Config
from baregpt.optimizer import Optimizer
from baregpt.trainer import Training, evaluate, train
from baregpt.vocab import Vocab
from baregpt.weights import save_weights
from pipeline import ranks, tracking
from pipeline.checkpoint import fingerprint, load_checkpoint, save_checkpoint, warn_of_damage
from pipeline.params import load_params
from pipeline.stage import (
    CHECKPOINT,
    DATA,
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
    from matplotlib.figure import Figure  # takes a second: not for each rank, nor before wrong input is told

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


@dataclass
class Progress:
    """How far a training has come, beside its arrays; all of it JSON values."""

    train_curve: list = field(default_factory=list)  # the loss of each step
    validation_curve: list = field(default_factory=list)  # [step, loss]
    best_step: int = 0


def arrays_of(model, optimizer, best):
    """Name -> array: every number that changes while training."""
    moments = {"mean": optimizer.mean, "square": optimizer.square}
    named = {f"{moment}.{name}": array for moment, arrays in moments.items() for name, array in arrays.items()}
    return {"parameters": model.flat, "best": best} | named


def resume(identity, arrays):
    """Put arrays back as the last checkpoint of just this training has them; (progress, record), or None."""
    found = load_checkpoint()
    if found is None:
        return None
    state, saved = found
    if state["fingerprint"] != identity:  # it was killed, and will not go on
        tracking.give_up(state["record"])
        return None
    if {name: (a.shape, a.dtype) for name, a in saved.items()} != {n: (a.shape, a.dtype) for n, a in arrays.items()}:
        warn_of_damage("its arrays are not those of the model")
        return None
    for name, array in arrays.items():
        array[...] = saved[name]
    record = tracking.Record(**state["record"])
    progress = Progress(**state["progress"])
    print(f"going on from {CHECKPOINT}, after step {len(progress.train_curve)}")
    return progress, record


def read_text():
    """(vocab, the corpus's checksums, ids to train on, ids held out); ValueError if they are not what `vocab` made."""
    try:
        contents = json.loads(VOCAB.read_text(encoding="utf-8"))
        vocab, corpus = Vocab(contents["characters"]), contents["corpus"]
        splits = np.load(TRAIN_IDS), np.load(VALIDATION_IDS)
        if [hashlib.sha256(ids.data).hexdigest() for ids in splits] != list(contents["ids_sha256"].values()):
            raise ValueError("the ids are of another text")
    except (ValueError, EOFError, KeyError, TypeError) as error:
        these = f"{VOCAB}, {TRAIN_IDS} and {VALIDATION_IDS}"
        raise ValueError(f"{these} do not go together ({error}): `dvc repro --force vocab` makes them anew") from None
    return vocab, corpus, *splits


def main():
    if launcher := load_params().train.launcher:
        try:
            ranks.launch(launcher)
        except BaseException:  # an interrupt, too: the ranks may have had no time to tell MLflow
            with contextlib.suppress(Timeout), FileLock(DATA / "training.lock", timeout=0):  # else another goes on
                if found := load_checkpoint():
                    tracking.give_up(found[0]["record"])
            raise
    else:
        train_alone_or_first()


def train_as_rank(group):
    """What each process does that a launcher has started: all of it, or all but what concerns files and MLflow."""
    if group.rank == 0:
        train_alone_or_first(group)
    else:
        train_here(group)


def train_alone_or_first(group=None):
    try:
        with FileLock(DATA / "training.lock", timeout=0):
            for path in (CHECKPOINT, WEIGHTS, METRICS, TRAIN_LOSS, VALIDATION_LOSS, LOSS_PICTURE):
                for left in DATA.glob(f"{path.name}.*.tmp"):  # by a training that was killed while it wrote
                    left.unlink()
            train_here(group)
    except Timeout:
        raise ValueError(f"another training is at work in this checkout: wait for it ({DATA}/training.lock)") from None


def train_here(group):
    """Train, as one of a group of ranks or, with None, alone."""
    keep_freed_memory()
    params = load_params()
    first = group is None or group.rank == 0
    vocab, corpus, train_ids, validation_ids = read_text()
    settings = Training(**params.train.model_dump(exclude={"launcher"}))
    model = GPT(Config(len(vocab), **params.model.model_dump()), settings.seed)
    optimizer = Optimizer(model.parameters, settings)
    arrays = arrays_of(model, optimizer, model.flat.copy())
    characters = settings.batch_size * model.config.block_size  # seen in each step
    identity = fingerprint([asdict(settings), asdict(model.config)], [VOCAB, TRAIN_IDS, VALIDATION_IDS])
    if first:
        shared = f", on {group.count} ranks" if group else ""
        print(f"{model.n_parameters:,} parameters, {settings.steps:,} steps of {characters:,} characters{shared}")
        progress, record = resume(identity, arrays) or (
            Progress(),
            tracking.training_record(params.model_dump(), corpus["md5"], parameter_counts(model)),
        )
    interval = params.checkpoint.interval
    if group:
        begun = (progress, record, interval) if first else None
        progress, record, interval = group.start(settings.shards, identity, begun, arrays)
    delivery = tracking.Delivery(record)
    taken = len(progress.train_curve)
    share = group and group.share
    steps = train(model, train_ids, validation_ids, settings, optimizer=optimizer, taken=taken, share=share)
    start = time.perf_counter()
    try:
        # quiet if not a terminal
        with tqdm(initial=taken, total=settings.steps, unit="step", disable=None if first else True) as bar:
            for step, train_loss, validation_loss, learning_rate, norm in steps:
                progress.train_curve.append(train_loss)
                record.log(
                    step,
                    train_loss=train_loss,
                    validation_loss=validation_loss,
                    learning_rate=learning_rate,
                    gradient_norm=norm,
                    characters_per_second=characters * (step - taken) / (time.perf_counter() - start),
                )
                checkpoint_due = step == 1 or step % interval == 0
                if not math.isfinite(validation_loss or 0) or (checkpoint_due and not np.isfinite(model.flat).all()):
                    at = f"step {step} (gradient norm {norm:.4g}, learning rate {learning_rate:.4g})"
                    raise ValueError(f"training diverged at {at}: lower the learning rate")
                if validation_loss is not None:
                    if validation_loss < min((loss for _, loss in progress.validation_curve), default=math.inf):
                        progress.best_step = step
                        arrays["best"][:] = model.flat
                    progress.validation_curve.append([step, validation_loss])
                    bar.clear()
                    if first:
                        losses = f"train loss {train_loss:.4f}, validation loss {validation_loss:.4f}"
                        print(f"step {step}: {losses}", flush=True)
                bar.set_postfix(loss=f"{train_loss:.3f}", refresh=False)
                bar.update()
                if checkpoint_due and first:
                    state = {"fingerprint": identity, "progress": vars(progress), "record": vars(record)}
                    save_checkpoint(state, arrays)
                    delivery.keep_up()
                if checkpoint_due and group:
                    group.wait_for_first()

        model.flat[:] = arrays["best"]
        with threadpool_limits(1), ThreadPoolExecutor() as pool:  # BLAS's number of threads would move the last bits
            everywhere = group.share(pool.map) if group else pool.map
            loss = evaluate(model, validation_ids, parallel_map=everywhere)
        if group:
            group.part()
        if first:
            finish(model, vocab, loss, corpus, settings, progress, record)
    except BaseException as error:
        if first and progress.train_curve:  # else it never began
            record.status = tracking.KILLED if isinstance(error, KeyboardInterrupt) else tracking.FAILED
            record.end = tracking.now()
            tracking.hand_over(record, record.tags["training"])
        elif not first and isinstance(error, ValueError):  # all diverge together: the first says so, and ends the rest
            time.sleep(ranks.PATIENCE_WITH_FIRST)
        raise
    if first:
        CHECKPOINT.unlink(missing_ok=True)


def finish(model, vocab, validation_loss, corpus, settings, progress, record):
    """Write everything that training makes, and hand it over to MLflow."""
    best_step, characters = progress.best_step, settings.batch_size * model.config.block_size
    before = progress.train_curve[max(0, best_step - settings.evaluation_interval) : best_step]
    metrics = {
        "train_loss": round(float(np.mean(before)), 6),  # over the evaluation interval before the best step
        "validation_loss": round(validation_loss, 6),  # over the whole split
        "best_step": best_step,
        "parameters": model.n_parameters,
        "characters_seen": characters * best_step,  # by the weights that are kept
    }
    save_weights(WEIGHTS, model, vocab, {"corpus_sha256": corpus["sha256"], "steps": settings.steps, **metrics})
    train_curve, validation_curve = dict(enumerate(progress.train_curve, 1)), dict(progress.validation_curve)
    write_curve(TRAIN_LOSS, "train_loss", train_curve)
    write_curve(VALIDATION_LOSS, "validation_loss", validation_curve)
    draw_curves(LOSS_PICTURE, train_curve, validation_curve)
    with atomic_write(METRICS) as file:
        file.write(json.dumps(metrics, indent=2).encode() + b"\n")
    print(f"step {best_step} was best: validation loss {validation_loss:.4f} over the whole split")
    record.log(best_step, final_train_loss=metrics["train_loss"], final_validation_loss=metrics["validation_loss"])
    record.tags["weights.md5"] = tracking.md5(WEIGHTS)
    record.status, record.end = tracking.FINISHED, tracking.now()
    tracking.hand_over(record, record.tags["training"], [WEIGHTS, VOCAB, LOSS_PICTURE])


if __name__ == "__main__":
    if ranks.AS_RANK in sys.argv:
        ranks.run_rank(train_as_rank)
    else:
        run_stage(main)
