"""train: train the model; write its weights, metrics and loss curves.

With `ranks.launcher` in params.yaml, training runs on several MPI ranks. Rank 0 alone writes files,
prints, and logs to MLflow.
"""

import contextlib
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from baregpt.optimizer import Optimizer
from baregpt.trainer import evaluate, train
from pipeline.common.inputs import Inputs
from pipeline.common.params import load_params
from pipeline.common.paths import DATA, PARAMS
from pipeline.common.process import keep_freed_memory, lock_training
from pipeline.common.stage import run, warn
from pipeline.tracking.new_run import new_record
from pipeline.tracking.outbox import STOP_TIMEOUT, DeliveryProcess
from pipeline.tracking.run_logger import RunLogger
from pipeline.training.checkpoint import TrainingState, fingerprint
from pipeline.training.communicator import SingleProcess, report_on_rank_zero
from pipeline.training.launcher import RANK_FLAG, launch, run_rank
from pipeline.training.outputs import IS_LIVE, delete_curves_on_error, write_curves, write_outputs
from pipeline.training.progress import Progress
from pipeline.training.snapshots import Snapshots
from pipeline.training.start import load_training_setup


def main():
    launcher = load_params().ranks.launcher
    if not launcher:
        lock_and_train(SingleProcess())
        return
    try:
        launch(launcher)
    except BaseException:
        # Rank 0 may have been killed before it reported its status to MLflow.
        DeliveryProcess().close(STOP_TIMEOUT)
        raise


def lock_and_train(communicator):
    """Train, unless another training run is active in this checkout; only rank 0 takes the lock."""
    if communicator.rank:
        train_model(communicator)
        return
    with lock_training():
        for path in Inputs("train").outputs():
            for temporary in DATA.glob(f"{path.name}.*.tmp"):  # left by a killed run
                temporary.unlink()
        train_model(communicator)


def train_model(communicator):
    """Train the model as one rank of a communicator."""
    is_root = communicator.rank == 0
    keep_freed_memory()

    # load
    inputs = Inputs("train")
    setup = load_training_setup(communicator.size)
    model, config = setup.model, setup.config
    optimizer = Optimizer(model.parameters, config)
    interval = setup.params.checkpoint.interval
    state = TrainingState(inputs, model, optimizer, Progress(), interval)
    if is_root:
        print_setup(setup)

    # resume
    if is_root and not state.resume():
        state.begin(new_record(setup))
    state.progress, state.interval = communicator.broadcast_state(
        config.shards, fingerprint(inputs), (state.progress, state.interval), state.arrays
    )

    # loop
    progress, splits = state.progress, (setup.train_ids, setup.validation_ids)
    steps = train(
        model, *splits, config, None, optimizer, progress.completed_steps, communicator.distribute
    )
    snapshots = Snapshots(setup.excerpt, model, setup.vocab, config.steps, progress.snapshots)
    logger = RunLogger(setup, state) if is_root else None
    with (
        logger or contextlib.nullcontext(),
        report_on_rank_zero(communicator),
        delete_curves_on_error(),
    ):
        run_steps(steps, state, snapshots, logger, communicator)
        model.flat[:] = state.arrays["best"]
        # one BLAS thread, because the number of threads affects the last bits
        with threadpool_limits(1), ThreadPoolExecutor() as pool:
            parallel_map = communicator.distribute(pool.map)
            validation_loss = evaluate(model, setup.validation_ids, parallel_map=parallel_map)
        communicator.disconnect()

        # write
        if logger:
            try:
                inputs.check()
            except ValueError:
                state.save()  # to resume from after the change is reverted
                raise
            logger.finish(write_outputs(setup, progress, snapshots, validation_loss))
            if not inputs.describe_changes():  # otherwise, the outputs will be discarded
                state.delete()


def print_setup(setup):
    """Print the size of the model and of the training run."""
    train_params = setup.params.train
    if train_params.init:
        shape = ", ".join(f"{name} {value}" for name, value in setup.params.model)
        print(f"starting from {train_params.init}: {shape} (model.* in {PARAMS} is ignored)")
    print(
        f"{setup.model.n_parameters:,} parameters, {train_params.steps:,} steps of"
        f" {setup.characters_per_step:,} characters"
    )


def timed(steps):
    """Yield each step with its duration in seconds, excluding the time spent by the caller."""
    start = time.perf_counter()
    for step in steps:
        yield step, time.perf_counter() - start
        start = time.perf_counter()


def run_steps(steps, state, snapshots, logger, communicator):
    """Run the training steps; keep the best parameters, log, and save checkpoints.

    logger: that of rank 0, or None on other ranks.
    """
    parameters, best = state.arrays["parameters"], state.arrays["best"]
    for (step, train_loss, validation_loss, learning_rate, norm), seconds in timed(steps):
        is_due = state.is_due(step)
        finite = math.isfinite(validation_loss or 0)
        if not finite or (is_due and not np.isfinite(parameters).all()):
            where = f"step {step} (gradient norm {norm:.4g})"
            raise ValueError(f"training diverged at {where}: lower the learning rate")
        if state.progress.add(step, train_loss, validation_loss):
            best[:] = parameters
        if logger:
            snapshots.take(step)
            logger.log_step(step, train_loss, validation_loss, learning_rate, norm, seconds)
            if IS_LIVE and validation_loss is not None:
                write_curves(state.progress)
            if is_due:
                save_checkpoint(state, logger)
        if is_due:
            communicator.barrier()


def save_checkpoint(state, logger):
    """Write a checkpoint and deliver the record; warn if the outputs will be discarded."""
    state.save()
    logger.deliver()
    if changes := state.inputs.describe_changes():
        warn(
            f"{changes} changed since training began; revert the change before training ends, or"
            " its outputs will be discarded"
        )


if __name__ == "__main__":
    if RANK_FLAG in sys.argv:
        run_rank(lock_and_train)
    else:
        run(main, "train", __doc__)
