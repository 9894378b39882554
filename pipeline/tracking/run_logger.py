"""What is written down of a training while it runs: for the person, for MLflow, and for the next
run, if this one is stopped.
"""

import contextlib
import time

from tqdm import tqdm

from pipeline.common.inputs import checksum
from pipeline.common.stage import LOSS_PICTURE, VOCAB, WEIGHTS
from pipeline.tracking import client as tracking
from pipeline.tracking import outbox
from pipeline.tracking.record import FAILED, FINISHED, KILLED, Record
from pipeline.training import checkpoint


def begin_record(params, corpus, model):
    """What MLflow is to know of a training that begins."""
    tags, texts = tracking.describe_training(params.model_dump(), corpus["md5"])
    record = Record("training", tags, texts)
    counts = {"parameters.total": model.n_parameters}
    for name, parameter in model.parameters.items():  # the blocks' parts over all layers together
        words = name.split(".")
        part = f"parameters.{words[2] if words[0] == 'blocks' else words[0]}"
        counts[part] = counts.get(part, 0) + parameter.size
    record.log(0, **counts)
    return record


class Journal:
    """Of one training; as a context, it has MLflow know if that ended too soon."""

    def __init__(self, inputs, record, progress, arrays, settings, model):
        self.inputs, self.record, self.progress, self.arrays = inputs, record, progress, arrays
        self.characters = settings.batch_size * model.config.block_size  # seen in each step
        self.taken, self.start = progress.steps, time.perf_counter()
        # quiet if not a terminal
        self.bar = tqdm(initial=self.taken, total=settings.steps, unit="step", disable=None)
        self.owner = outbox.owner(record.name)

    def __enter__(self):
        self.owner.acquire()

    def __exit__(self, kind, error, traceback):
        self.bar.close()
        if error and self.progress.steps:  # else it never began
            interrupted = isinstance(error, KeyboardInterrupt)
            self.record.finish(KILLED if interrupted else FAILED)
            with contextlib.suppress(OSError):  # a full disk, say: the next run will tell MLflow
                outbox.keep(self.record)
                outbox.deliver_or_warn()
        self.owner.release()

    def note(self, step, train_loss, validation_loss, learning_rate, norm):
        """Note a step."""
        seconds = time.perf_counter() - self.start
        self.record.log(
            step,
            train_loss=train_loss,
            validation_loss=validation_loss,
            learning_rate=learning_rate,
            gradient_norm=norm,
            characters_per_second=self.characters * (step - self.taken) / seconds,
        )
        if validation_loss is not None:
            self.bar.clear()
            losses = f"train loss {train_loss:.4f}, validation loss {validation_loss:.4f}"
            print(f"step {step}: {losses}", flush=True)
        self.bar.set_postfix(loss=f"{train_loss:.3f}", refresh=False)
        self.bar.update()

    def save(self):
        """Write a checkpoint, and have MLflow know; say so if the results could not be kept."""
        checkpoint.save(self.inputs, self.progress, self.record, self.arrays)
        outbox.keep(self.record)
        outbox.deliver_or_warn()
        if changes := self.inputs.changes():
            back = "put it back before training ends, or its results cannot be kept"
            outbox.warn(f"{changes} changed since training began: {back}")

    def check_inputs(self):
        """ValueError if they have changed: no results, but a checkpoint for who puts them back."""
        try:
            self.inputs.check()
        except ValueError:
            checkpoint.save(self.inputs, self.progress, self.record, self.arrays)
            raise

    def finish(self, metrics):
        """Hand the finished training over to MLflow."""
        final = {f"final_{name}": metrics[name] for name in ("train_loss", "validation_loss")}
        self.record.log(self.progress.best_step, **final)
        self.record.tags["weights.md5"] = checksum(WEIGHTS)
        self.record.finish(FINISHED)
        outbox.keep(self.record, [WEIGHTS, VOCAB, LOSS_PICTURE])
        outbox.deliver_or_warn()
        if not self.inputs.changes():  # else the results will not be kept, but this is
            checkpoint.remove(self.inputs)
