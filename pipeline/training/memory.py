"""The memory that a training step needs."""

import contextlib
import os
from pathlib import Path

import psutil
from threadpoolctl import threadpool_info

CGROUP_LIMITS = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"


def step_memory(vocab_size, block_size, d_model, n_heads, n_layers, sequences, shards, threads):
    """Return an estimate, accurate to 20%, of the bytes that a training step needs.

    sequences: the number in each shard. The number of activations was fitted to measurements of
    `GPT.loss_and_gradients`.
    """
    V, T, D, H, L, B = vocab_size, block_size, d_model, n_heads, n_layers, sequences
    N = B * T
    parameters = (2 * V + T + 12 * L * D) * D
    # attention scores above the diagonal are computed only in the tiles that it crosses
    attn = N * H * (L * (T + 64) / 2 + 2.6 * 64)
    activations = 16 * L * N * D + 6 * N * D + 4 * N * V + attn
    # parameters, their best values, two moments of Adam, and the gradients of each shard
    return 4 * ((4 + shards) * parameters + min(threads, shards) * activations)


def available_memory():
    """Return the available bytes of memory: those of this machine, but at most the limit of this
    process's cgroup.

    What the cgroup uses already is not subtracted: most of it may be cached files, which the kernel
    frees if needed.
    """
    available = psutil.virtual_memory().available
    for path in map(Path, CGROUP_LIMITS):
        with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
            available = min(available, int(path.read_text()))
    return available


def check_memory(params, vocab_size, ranks=1):
    """Raise ValueError if a step needs more memory than is available, because the kernel would kill
    the process.

    The message names the parameter that makes the largest difference.
    """
    model, train = params.model, params.train
    blas = [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]
    threads = max(blas, default=os.cpu_count())
    values = {"train.batch_size": train.batch_size}
    if not train.init:
        values |= {f"model.{k}": getattr(model, k) for k in ("block_size", "d_model", "n_layers")}

    def memory(**changed):
        sizes = {name.split(".")[1]: value for name, value in (values | changed).items()}
        sizes = model.model_dump(exclude={"rotary"}) | sizes
        sequences = sizes.pop("batch_size") / train.shards
        shards = max(1, train.shards // ranks)
        return step_memory(vocab_size, **sizes, sequences=sequences, shards=shards, threads=threads)

    needed, available = memory(), available_memory()
    if needed <= available:
        return
    name = min(values, key=lambda name: memory(**{name: values[name] / 2}))
    raise ValueError(
        f"a training step needs about {needed / 1e9:,.1f} GB of memory, but only"
        f" {available / 1e9:.1f} GB is available; reduce {name} ({values[name]})"
    )
