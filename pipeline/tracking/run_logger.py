"""Logging a training: to the terminal, and to its MLflow run."""

import contextlib
import time

from tqdm import tqdm

from pipeline.common.inputs import checksum
from pipeline.common.paths import LOSS_PLOT, VOCAB, WEIGHTS
from pipeline.tracking import outbox
from pipeline.tracking.client import describe_training
from pipeline.tracking.record import FAILED, FINISHED, KILLED, RunRecord


def new_record(params, corpus, model):
    """Return the record of a training that begins: tags, params and parameter counts."""
    tags, values = describe_training(params.model_dump(), corpus["md5"])
    record = RunRecord("training", tags, values)
    counts = {"parameters.total": model.n_parameters}
    for name, parameter in model.parameters.items():  # summed over the blocks
        words = name.split(".")
        layer = f"parameters.{words[2] if words[0] == 'blocks' else words[0]}"
        counts[layer] = counts.get(layer, 0) + parameter.size
    record.log_metrics(0, **counts)
    return record


class RunLogger:
    """Logs the steps of a training. As a context manager it marks the run as failed or killed after
    an exception.
    """

    def __init__(self, record, steps, completed_steps, characters_per_step):
        self.record, self.completed_steps = record, completed_steps
        self.characters_per_step = characters_per_step
        self.step, self.start = completed_steps, time.perf_counter()
        # disable=None: no bar unless on a terminal
        self.bar = tqdm(initial=completed_steps, total=steps, unit="step", disable=None)
        self.lock = outbox.run_lock(record.name)

    def __enter__(self):
        self.lock.acquire()
        return self

    def __exit__(self, kind, error, traceback):
        self.bar.close()
        if error and self.step:
            interrupted = isinstance(error, KeyboardInterrupt)
            self.record.finish(KILLED if interrupted else FAILED)
            with contextlib.suppress(OSError):  # a full disk, say: the next command marks the run
                self.deliver()
        self.lock.release()

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
            characters_per_second=characters / seconds,
        )
        if validation_loss is not None:
            self.bar.clear()
            losses = f"train loss {train_loss:.4f}, validation loss {validation_loss:.4f}"
            print(f"step {step}: {losses}", flush=True)
        self.bar.set_postfix(loss=f"{train_loss:.3f}", refresh=False)
        self.bar.update()

    def deliver(self, files=()):
        """Put the record into the outbox and deliver it to MLflow, if it can be reached."""
        outbox.enqueue(self.record, files)
        outbox.deliver_or_warn()

    def finish(self, metrics):
        """Log the final metrics and the files of a training that has finished."""
        self.record.log_metrics(
            metrics["best_step"],
            final_train_loss=metrics["train_loss"],
            final_validation_loss=metrics["validation_loss"],
        )
        self.record.tags["weights.md5"] = checksum(WEIGHTS)
        self.record.finish(FINISHED)
        self.deliver([WEIGHTS, VOCAB, LOSS_PLOT])
