"""Logging a training: to the terminal, and to its MLflow run."""

import contextlib
import os
import re
import time
import uuid
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from pipeline.common.inputs import checksum
from pipeline.common.paths import CHECKOUT, LOSS_PLOT, PARAMS, VOCAB, WEIGHTS
from pipeline.common.record import FAILED, FINISHED, KILLED, RunRecord, shorten
from pipeline.common.yaml_file import flatten
from pipeline.tracking.outbox import STOP_TIMEOUT, DeliveryProcess, enqueue
from pipeline.tracking.store import store_name


def new_record(params, corpus, model):
    """Return the record of a training that begins, known by its random tag `training`."""
    from mlflow.tracking.context.registry import resolve_tags

    # resolve_tags adds the git commit
    tags = resolve_tags({"training": uuid.uuid4().hex, "corpus.md5": corpus["md5"]})
    if name := os.environ.get("DVC_EXP_NAME"):
        tags["mlflow.runName"] = name
        is_queued = Path.cwd() != CHECKOUT  # DVC numbers the experiments that one command queues
        if is_queued and (sweep := re.fullmatch(r"(.+)-\d+", name)):
            tags["sweep"] = f"{sweep[1]}, from {os.environ.get('DVC_EXP_BASELINE_REV', '')[:7]}"
    record = RunRecord(tags["training"], "training", tags, store_name())
    record.params = {
        name: shorten(value)
        for name, value in flatten(params.model_dump()).items()
        if not name.startswith(("sample.", "plot_attention."))  # see attach_artifacts
    }
    record.texts[PARAMS.name] = PARAMS.read_text(encoding="utf-8")
    counts = Counter({"parameters.total": model.n_parameters})
    for name, parameter in model.parameters.items():  # summed over the blocks
        layer = re.sub(r"blocks\.\d+\.", "", name).split(".")[0]
        counts[f"parameters.{layer}"] += parameter.size
    record.log_metrics(0, **counts)
    return record


class RunLogger(contextlib.AbstractContextManager):
    """Logs the steps of a training; as a context manager, also that it failed or was killed."""

    def __init__(self, record, lock, steps, completed_steps, characters_per_step):
        self.record, self.lock, self.completed_steps = record, lock, completed_steps
        self.characters_per_step = characters_per_step
        self.step, self.start = completed_steps, time.perf_counter()
        # disable=None: no bar unless on a terminal
        self.bar = tqdm(initial=completed_steps, total=steps, unit="step", disable=None)
        self.delivery = DeliveryProcess()

    def __exit__(self, kind, error, traceback):
        self.bar.close()
        if error and self.step and not self.record.end:
            self.record.finish(KILLED if kind is KeyboardInterrupt else FAILED)
            with contextlib.suppress(OSError):  # a full disk, say: the next command marks the run
                enqueue(self.record)
        self.lock.release()
        self.delivery.close(STOP_TIMEOUT if kind is KeyboardInterrupt else None)

    def log_step(self, step, train_loss, validation_loss, learning_rate, gradient_norm):
        """Log a step; print its losses if it has a validation loss."""
        self.step, seconds = step, time.perf_counter() - self.start
        characters = self.characters_per_step * (step - self.completed_steps)
        self.record.log_metrics(
            step,
            train_loss=train_loss,
            validation_loss=validation_loss,
            learning_rate=learning_rate,
            gradient_norm=gradient_norm,
            characters_per_second=characters / seconds,  # last: see client.send
        )
        if validation_loss is not None:
            self.bar.clear()
            losses = f"train loss {train_loss:.4f}, validation loss {validation_loss:.4f}"
            print(f"step {step}: {losses}", flush=True)
        self.bar.set_postfix(loss=f"{train_loss:.3f}", refresh=False)
        self.bar.update()

    def deliver(self):
        """Have the record delivered as it is now."""
        enqueue(self.record)
        self.delivery.notify()

    def finish(self, metrics):
        """Log the final metrics and files, and wait until they are delivered or that fails."""
        self.record.log_metrics(
            metrics["best_step"],
            final_train_loss=metrics["train_loss"],
            final_validation_loss=metrics["validation_loss"],
        )
        self.record.tags["weights.md5"] = checksum(WEIGHTS)
        self.record.finish(FINISHED)
        enqueue(self.record, [WEIGHTS, VOCAB, LOSS_PLOT])
        self.delivery.close()
