"""Logging a training run: to the terminal, and to its MLflow run."""

import contextlib
import os
import shutil

import psutil
from tqdm import tqdm

from pipeline.common.inputs import checksum
from pipeline.common.paths import LOSS_PLOT, VOCAB, WEIGHTS
from pipeline.common.record import FAILED, FINISHED, KILLED
from pipeline.tracking.new_run import NOTE
from pipeline.tracking.outbox import STOP_TIMEOUT, DeliveryProcess, enqueue
from pipeline.tracking.samples import SAMPLES_BY_STEP, sample_line, truncate


class RunLogger(contextlib.AbstractContextManager):
    """Logs the steps of a training run; as a context manager, also logs whether it failed or was
    killed.

    setup: a TrainingSetup. state: a TrainingState, with the record and the completed steps.
    """

    def __init__(self, setup, state):
        self.setup, self.record, self.lock = setup, state.record, state.lock
        self.step = state.progress.completed_steps
        self.seconds = list[float]()  # durations of the steps since an evaluation
        self.process = psutil.Process()
        self.process.cpu_percent()  # later calls return the mean since the previous one
        # disable=None: no bar unless on a terminal
        steps = setup.config.steps
        self.bar = tqdm(initial=self.step, total=steps, unit="step", disable=None)
        self.delivery = DeliveryProcess()

    def __exit__(self, kind, error, traceback):
        self.bar.close()
        if error and self.step and not self.record.end:
            self.record.finish(KILLED if kind is KeyboardInterrupt else FAILED)
            # with a full disk, for example, the next command marks it as killed
            with contextlib.suppress(OSError):
                enqueue(self.record)
        with contextlib.suppress(OSError):  # Windows does not delete open files
            os.unlink(self.lock.lock_file)
        self.lock.release()
        self.delivery.close(STOP_TIMEOUT if kind is KeyboardInterrupt else None)

    def log_step(self, step, train_loss, validation_loss, learning_rate, gradient_norm, seconds):
        """Log a step that took `seconds`; print its losses and a line of text at an evaluation."""
        self.step = step
        self.seconds.append(seconds)
        metrics = {"loss/train": train_loss, "optimizer/learning_rate": learning_rate}
        if validation_loss is not None:
            metrics["loss/validation"] = validation_loss
            metrics |= self.usage()
            text = sample_line(self.setup.model, self.setup.vocab, step)
            so_far = self.record.texts.get(SAMPLES_BY_STEP, "")
            self.record.texts[SAMPLES_BY_STEP] = f"{so_far}step {step}: {text}\n"
            self.bar.clear()
            print(
                f"step {step}: train loss {train_loss:.4f}, validation loss {validation_loss:.4f}"
            )
            print(truncate(f"  {text}", shutil.get_terminal_size().columns), flush=True)
        metrics["optimizer/gradient_norm"] = gradient_norm  # last: see client.send
        self.record.log_metrics(step, metrics)
        self.bar.set_postfix(loss=f"{train_loss:.3f}", refresh=False)
        self.bar.update()

    def usage(self):
        """Return the speed, CPU time and memory of the steps since the last call, as metrics."""
        characters = self.setup.characters_per_step * len(self.seconds)
        seconds = sum(self.seconds)
        self.seconds.clear()
        return {
            "speed/characters_per_second": characters / seconds,
            "system/process_cpu_percentage": self.process.cpu_percent(),
            "system/process_memory_megabytes": self.process.memory_info().rss / 1e6,
        }

    def deliver(self):
        """Queue the record in its current state and notify the delivery process."""
        enqueue(self.record)
        self.delivery.notify()

    def finish(self, metrics):
        """Log the final metrics and files; wait until they are delivered or the delivery fails."""
        step, loss = metrics["best_step"], metrics["validation_loss"]
        losses = {"result/train_loss": metrics["train_loss"], "result/validation_loss": loss}
        self.record.log_metrics(step, losses)
        self.record.tags[NOTE] += (
            f"\n\nValidation loss {loss:.4f} nats per character, at step {step}."
        )
        self.record.tags["weights.md5"] = checksum(WEIGHTS)
        self.record.finish(FINISHED)
        enqueue(self.record, [WEIGHTS, VOCAB, LOSS_PLOT])
        self.delivery.close()
