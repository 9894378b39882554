"""Training: random windows of the text, in shards on threads, and evaluation."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import iadd

import numpy as np
from threadpoolctl import ThreadpoolController

from baregpt.optimizer import Optimizer, schedule


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Each step takes `batch_size` windows in `shards` equal parts, whose gradients are summed in one
    fixed order: shards set how many threads can help, and with the last bits of the result; threads
    change no bit of it. Learning rates are those at the top of the schedule. If Muon has one, it
    trains the matrices of the blocks, Adam the rest; those matrices alone decay.
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


def random_windows(ids, length, count, seed):
    """`count` windows at random places: inputs (count, length), and targets one character further
    on.
    """
    starts = np.random.default_rng(seed).integers(0, len(ids) - length, count)
    windows = ids[starts[:, None] + np.arange(length + 1)]
    return windows[:, :-1], windows[:, 1:]


def evaluate(model, ids, max_windows=None, parallel_map=map):
    """Mean loss, nats a character, over consecutive windows of block_size: all of them, or some
    spread evenly.
    """
    length = model.config.block_size
    windows = [ids[start : start + length + 1] for start in range(0, len(ids) - 1, length)]
    if max_windows and max_windows < len(windows):
        windows = [windows[i * len(windows) // max_windows] for i in range(max_windows)]

    def loss(window):
        return model.loss(window[None, :-1], window[None, 1:])

    sizes = [len(window) - 1 for window in windows]  # the last is shorter
    return float(np.average(list(parallel_map(loss, windows)), weights=sizes))


def sum_tree(arrays):
    """Sum arrays along one fixed tree, halves of halves, in their own memory: the first becomes the
    sum. Floating-point sums depend on their order: by this one any half can be summed elsewhere, on
    another machine, to the same bits.
    """
    half = len(arrays) // 2
    return iadd(sum_tree(arrays[:half]), sum_tree(arrays[half:])) if half else arrays[0]


def train(model, train_ids, validation_ids, config, threads=None, optimizer=None,
          completed_steps=0, distribute=None):  # fmt: skip
    """Train `model` in place. Each step is taken when the caller asks for it, and yields

    (step, train_loss, validation_loss, learning_rate, gradient_norm): losses in nats a character,
    validation_loss None between evaluations, the norm that before clipping. Same model, ids and
    config: same parameters, to the last bit, whatever the number of threads (by default as many
    as BLAS would use, so OMP_NUM_THREADS holds). Between steps, model and optimizer are all that
    there is to know: with both as they were after `completed_steps` steps, training goes on as if it had
    never stopped. ValueError if a split has no room for a window, or if training diverges.

    `distribute`, if given, makes of the map over threads one over processes: see pipeline/training/communicator.py.
    """
    length = model.config.block_size
    shorter = min(len(train_ids), len(validation_ids))
    if shorter <= length:
        rule = f"it must have more than block_size, {length}"
        raise ValueError(f"a split of the text has {shorter} characters: {rule}")
    blas = ThreadpoolController().select(user_api="blas")
    counts = [library.num_threads for library in blas.lib_controllers]
    threads = threads or max(counts, default=os.cpu_count())
    optimizer = optimizer or Optimizer(model.parameters, config)
    dropouts = [config.dropout] * config.shards

    def mean_of_shards(name):
        gradient = sum_tree([shard[name] for shard in shard_gradients])
        gradient /= config.shards
        return gradient, np.vdot(gradient, gradient)  # and its length, squared

    # One thread of BLAS to each shard: all cores then work through the element-wise parts as well.
    # A training that diverges overflows, which is checked below: each thread has to be told.
    pool = ThreadPoolExecutor(threads, initializer=np.seterr, initargs=("ignore",))
    with blas.limit(limits=1), pool:
        map_shards = distribute(pool.map) if distribute else pool.map
        for step in range(completed_steps + 1, config.steps + 1):
            seed = config.seed, step
            batch = random_windows(train_ids, length, config.batch_size, seed)
            ids, targets = (np.split(part, config.shards) for part in batch)
            seeds = [(*seed, shard) for shard in range(1, config.shards + 1)]
            results = map_shards(model.loss_and_gradients, ids, targets, dropouts, seeds)
            losses, shard_gradients = zip(*results)
            train_loss = float(np.mean(losses))
            gradients, squares = zip(*pool.map(mean_of_shards, model.parameters))
            learning_rate = schedule(step, config) * config.learning_rate
            norm = float(np.sqrt(np.sum(squares, dtype=np.float64)))
            if not np.isfinite(norm + train_loss):
                state = f"loss {train_loss:.4g}, gradient norm {norm:.4g}"
                at = f"step {step} ({state}, learning rate {learning_rate:.4g})"
                raise ValueError(f"training diverged at {at}: lower the learning rate")
            if norm > config.clip_norm:
                for gradient in gradients:
                    gradient *= config.clip_norm / norm
            optimizer.update(dict(zip(model.parameters, gradients)), step, pool.map)
            validation_loss = None
            if step % config.evaluation_interval == 0 or step == config.steps:
                windows = config.evaluation_windows
                validation_loss = evaluate(model, validation_ids, windows, map_shards)
            yield step, train_loss, validation_loss, learning_rate, norm
