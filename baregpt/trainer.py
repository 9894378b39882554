"""Training on random windows of the text, in shards on several threads, and evaluation."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import iadd

import numpy as np
from threadpoolctl import ThreadpoolController

from baregpt.optimizer import Optimizer, lr_scale


@dataclass(frozen=True)
class TrainConfig:
    """Hyperparameters of training.

    Each step uses `batch_size` windows of block_size characters, split into `shards` equal parts. A
    thread processes one part at a time, so more threads than shards do not speed up the forward and
    backward passes. The number of shards changes the result, through rounding and the dropout
    masks; the number of threads does not. The learning rates are the peaks of the schedule. A
    `muon_learning_rate` other than 0 selects Muon for the matrices of the blocks, and
    `weight_decay` applies to these matrices only.
    """

    steps: int = 1500
    batch_size: int = 16
    shards: int = 4
    learning_rate: float = 5e-3
    muon_learning_rate: float = 0.0
    weight_decay: float = 0.0
    warmup_steps: int = 100
    beta1: float = 0.9
    beta2: float = 0.99
    clip_norm: float = 1.0
    dropout: float = 0.0
    evaluation_interval: int = 100
    evaluation_windows: int = 64
    seed: int = 1

    def __post_init__(self):
        if self.shards < 1 or self.batch_size < 1 or self.batch_size % self.shards:
            message = f"batch_size ({self.batch_size}) must be a multiple of shards ({self.shards})"
            raise ValueError(message)


def random_windows(ids, length, count, seed):
    """Return `count` random windows of ids: inputs and targets, (count, length) each.

    The targets are the inputs shifted by one character.
    """
    starts = np.random.default_rng(seed).integers(0, len(ids) - length, count)
    windows = ids[starts[:, None] + np.arange(length + 1)]
    return windows[:, :-1], windows[:, 1:]


def evaluate(model, ids, max_windows=None, parallel_map=map):
    """Return the mean loss in nats per character over consecutive windows of block_size.

    At most `max_windows` of them, spread evenly over the ids; by default all.
    """
    length = model.config.block_size
    windows = [ids[start : start + length + 1] for start in range(0, len(ids) - 1, length)]
    if max_windows and max_windows < len(windows):
        windows = [windows[i * len(windows) // max_windows] for i in range(max_windows)]

    def window_loss(window):
        return model.loss(window[None, :-1], window[None, 1:])

    sizes = [len(window) - 1 for window in windows]  # the last window may be shorter
    return float(np.average(list(parallel_map(window_loss, windows)), weights=sizes))


def pairwise_sum(arrays):
    """Sum arrays pairwise, along a binary tree, in place: the first array becomes the sum.

    Floating-point sums depend on their order. With this order, each half can be summed in another
    process and the result is bitwise identical.
    """
    half = len(arrays) // 2
    return iadd(pairwise_sum(arrays[:half]), pairwise_sum(arrays[half:])) if half else arrays[0]


def mean_gradient(gradients):
    """Mean of one parameter's gradients over the shards, and its squared norm."""
    mean = pairwise_sum(gradients)
    mean /= len(gradients)
    return mean, np.vdot(mean, mean)


def train(model, train_ids, validation_ids, config, threads=None, optimizer=None,
          completed_steps=0, distribute=None):  # fmt: skip
    """Train `model` in place. A generator: each iteration runs one step and yields

    (step, train_loss, validation_loss, learning_rate, gradient_norm)

    Losses are in nats per character. validation_loss is None between evaluations. learning_rate is
    that of Adam. gradient_norm is the global norm before clipping.

    Parameters
    ----------
    model : GPT
    train_ids, validation_ids : token ids, (number of characters,) each
    config : TrainConfig
    threads : number of threads; by default that of BLAS, so OMP_NUM_THREADS is respected
    optimizer, completed_steps : pass these, with the model, to resume; they are the complete state
    distribute : takes `pool.map` and returns a map that spans several processes, for example
        Communicator.distribute in pipeline/training/communicator.py

    On one machine, the same model, ids and config give bitwise identical parameters on any number
    of threads. Until the generator finishes or is closed, BLAS uses one thread in this process.
    Raises ValueError if a split is too short for a window, or if training diverges.
    """
    length = model.config.block_size
    for split, n in {"training": len(train_ids), "validation": len(validation_ids)}.items():
        if n <= length:
            raise ValueError(f"{split} split ({n} ids) must be longer than block_size ({length})")
    blas = ThreadpoolController().select(user_api="blas")
    blas_threads = [library.num_threads for library in blas.lib_controllers]
    threads = threads or max(blas_threads, default=os.cpu_count())
    optimizer = optimizer or Optimizer(model.parameters, config)

    def loss_and_gradients(ids, targets, seed):
        return model.loss_and_gradients(ids, targets, config.dropout, seed)

    # Each shard runs on one thread with single-threaded BLAS, which keeps all cores busy through
    # the elementwise operations too. Each thread ignores floating-point errors, because a check
    # for divergence follows below.
    pool = ThreadPoolExecutor(threads, initializer=np.seterr, initargs=("ignore",))
    with blas.limit(limits=1), pool:
        map_shards = distribute(pool.map) if distribute else pool.map
        for step in range(completed_steps + 1, config.steps + 1):
            batch = random_windows(train_ids, length, config.batch_size, (config.seed, step))
            ids, targets = (np.split(array, config.shards) for array in batch)
            seeds = [(config.seed, step, shard) for shard in range(1, config.shards + 1)]
            losses, shard_gradients = zip(*map_shards(loss_and_gradients, ids, targets, seeds))
            train_loss = float(np.mean(losses))
            by_name = [[shard[name] for shard in shard_gradients] for name in model.parameters]
            gradients, squared_norms = zip(*pool.map(mean_gradient, by_name))
            norm = float(np.sqrt(np.sum(squared_norms, dtype=np.float64)))
            learning_rate = lr_scale(step, config) * config.learning_rate
            if not np.isfinite(norm + train_loss):
                where = f"step {step} (loss {train_loss:.4g}, gradient norm {norm:.4g})"
                raise ValueError(f"training diverged at {where}: lower the learning rate")
            if norm > config.clip_norm:
                for gradient in gradients:
                    gradient *= config.clip_norm / norm
            optimizer.update(dict(zip(model.parameters, gradients)), step, pool.map)
            validation_loss = None
            if step % config.evaluation_interval == 0 or step == config.steps:
                n_windows = config.evaluation_windows
                validation_loss = evaluate(model, validation_ids, n_windows, map_shards)
            yield step, train_loss, validation_loss, learning_rate, norm
