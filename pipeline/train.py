"""train: train the model; write its weights, metrics and loss curves.

With `ranks.launcher` in params.yaml, training runs on several MPI ranks. Rank 0 alone writes files,
prints, and logs to MLflow.
"""

import contextlib
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from baregpt.optimizer import Optimizer
from baregpt.trainer import TrainConfig, evaluate, train
from pipeline.common.inputs import Inputs, checksum
from pipeline.common.params import load_params
from pipeline.common.paths import DATA, PARAMS
from pipeline.common.process import keep_freed_memory, lock_training
from pipeline.common.stage import run, warn
from pipeline.tracking.new_run import new_record
from pipeline.tracking.outbox import STOP_TIMEOUT, DeliveryProcess
from pipeline.tracking.run_logger import RunLogger
from pipeline.tracking.samples import sample_line
from pipeline.training.checkpoint import TrainingState, fingerprint
from pipeline.training.communicator import report_on_rank_zero, run_rank
from pipeline.training.launcher import RANK_FLAG, launch
from pipeline.training.outputs import (
    IS_LIVE,
    delete_curves_on_error,
    snapshot_line,
    write_curves,
    write_outputs,
)
from pipeline.training.progress import Progress
from pipeline.training.snapshots import snapshot_steps, take_snapshot
from pipeline.training.start import load_training_setup


def main():
    launcher = load_params().ranks.launcher
    if not launcher:
        lock_and_train()
        return
    try:
        launch(launcher)
    except BaseException:
        # Rank 0 may have been killed before it reported its status to MLflow.
        DeliveryProcess().close(STOP_TIMEOUT)
        raise


def lock_and_train(communicator=None):
    """Train, unless another training run is active in this checkout; only rank 0 takes the lock."""
    if communicator and communicator.rank:
        train_model(communicator)
        return
    with lock_training():
        for path in Inputs("train").outputs():
            for temporary in DATA.glob(f"{path.name}.*.tmp"):  # left by a killed run
                temporary.unlink()
        train_model(communicator)


def train_model(communicator):
    """Train the model as one rank of a communicator, or in this process alone if it is None."""
    keep_freed_memory()
    is_root = communicator is None or communicator.rank == 0

    # load
    inputs = Inputs("train")
    params, model, vocab, corpus, train_ids, validation_ids = load_training_setup(
        communicator.size if communicator else 1
    )
    config = TrainConfig(**params.train.model_dump(exclude={"init"}))
    optimizer = Optimizer(model.parameters, config)
    state = TrainingState(inputs, model, optimizer, Progress())
    interval = params.checkpoint.interval
    characters_per_step = config.batch_size * model.config.block_size
    if is_root:
        if params.train.init:
            shape = ", ".join(f"{name} {value}" for name, value in params.model)
            print(f"starting from {params.train.init}: {shape} (model.* in {PARAMS} is ignored)")
        print(
            f"{model.n_parameters:,} parameters, {config.steps:,} steps of"
            f" {characters_per_step:,} characters"
            + (f", on {communicator.size} ranks" if communicator else "")
        )

    # resume
    if is_root and not state.resume():
        record = new_record(params, corpus, model, (len(train_ids), len(validation_ids)))
        if params.train.init:
            record.tags["init.md5"] = checksum(params.train.init)
        state.begin(record)
    if communicator:
        state.progress, interval = communicator.broadcast_state(
            config.shards, fingerprint(inputs), (state.progress, interval), state.arrays
        )
    completed_steps = state.progress.completed_steps

    # loop
    distribute = communicator.distribute if communicator else None
    steps = train(
        model, train_ids, validation_ids, config, None, optimizer, completed_steps, distribute
    )
    logger = None
    line = vocab.encode(snapshot_line(vocab, validation_ids, model.config))
    snapshots = dict.fromkeys(snapshot_steps(config.steps), line)  # step -> the line to read
    if is_root:
        logger = RunLogger(
            state.record,
            state.lock,
            config.steps,
            completed_steps,
            characters_per_step,
            partial(sample_line, model, vocab),
        )
    with (
        logger or contextlib.nullcontext(),
        report_on_rank_zero(communicator),
        delete_curves_on_error(),
    ):
        run_steps(steps, state, interval, logger, communicator, snapshots)
        model.flat[:] = state.arrays["best"]
        # one BLAS thread, because their number changes the last bits
        with threadpool_limits(1), ThreadPoolExecutor() as pool:
            map_windows = distribute(pool.map) if distribute else pool.map
            validation_loss = evaluate(model, validation_ids, parallel_map=map_windows)
        if communicator:
            communicator.disconnect()

        # write
        if logger:
            try:
                inputs.check()
            except ValueError:
                state.save()  # to resume from after the change is reverted
                raise
            metrics = write_outputs(
                model, vocab, corpus, validation_ids, validation_loss, config, state.progress
            )
            logger.finish(metrics)
            if not inputs.describe_changes():  # otherwise, the outputs will be discarded
                state.delete()


def timed(steps):
    """Yield each step with its duration in seconds, excluding the time spent by the caller."""
    start = time.perf_counter()
    for step in steps:
        yield step, time.perf_counter() - start
        start = time.perf_counter()


def run_steps(steps, state, interval, logger, communicator, snapshots):
    """Run the training steps; keep the best parameters, log, and write checkpoints."""
    for (step, train_loss, validation_loss, learning_rate, norm), seconds in timed(steps):
        is_due = step == 1 or step % interval == 0
        finite = math.isfinite(validation_loss or 0)
        if not finite or (is_due and not np.isfinite(state.model.flat).all()):
            where = f"step {step} (gradient norm {norm:.4g})"
            raise ValueError(f"training diverged at {where}: lower the learning rate")
        if state.progress.add(step, train_loss, validation_loss):
            state.arrays["best"][:] = state.model.flat
        if logger:
            if step in snapshots:
                state.progress.snapshots.append(take_snapshot(state.model, snapshots[step]))
            logger.log_step(step, train_loss, validation_loss, learning_rate, norm, seconds)
            if IS_LIVE and validation_loss is not None:
                write_curves(state.progress)
        if logger and is_due:
            state.save()
            logger.deliver()
            if changes := state.inputs.describe_changes():
                warn(
                    f"{changes} changed since training began; revert the change before training"
                    " ends, or its outputs will be discarded"
                )
        if communicator and is_due:
            communicator.barrier()


if __name__ == "__main__":
    if RANK_FLAG in sys.argv:
        run_rank(lock_and_train)
    else:
        run(main, "train")
