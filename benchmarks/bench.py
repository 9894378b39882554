"""Speed and memory compared with PyTorch and with matrix products alone: `make bench`.

Each implementation runs in its own process and waits while another is measured. The measurements
alternate, because the speed of a machine drifts. Figures are medians. Compare only ratios from the
same run.
"""

import argparse
import itertools
import json
import multiprocessing
import operator
import os
import platform
import resource
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

HERE = Path(__file__).parent
DEFAULT = {
    "vocab_size": 65,
    "block_size": 128,
    "d_model": 256,
    "n_heads": 4,
    "n_layers": 2,
    "batch_size": 16,
}
NANOGPT = {
    "vocab_size": 65,
    "block_size": 256,
    "d_model": 384,
    "n_heads": 6,
    "n_layers": 6,
    "batch_size": 64,
}
VARIANTS = [
    ("width 128", {"d_model": 128}),
    ("width 512", {"d_model": 512}),
    ("4 layers", {"n_layers": 4}),
    ("context 64", {"block_size": 64}),
    ("context 256", {"block_size": 256}),
    ("batch 8", {"batch_size": 8}),
    ("batch 32", {"batch_size": 32}),
]


# Implementations: each returns, in its own process, a function that does one unit of work.


def prepare(shape):
    """Return (model, ids) for a model shape, the same in every process."""
    from baregpt import GPT, Config

    config = Config(**{name: value for name, value in shape.items() if name != "batch_size"})
    rng = np.random.default_rng(1)
    model = GPT(config, seed=1)
    noise = rng.normal(0, 0.05, model.n_parameters)
    model.flat += noise.astype(model.flat.dtype)  # so that every parameter affects the loss
    return model, rng.integers(0, config.vocab_size, 100_000)


def baregpt_step(shape, shards=None):
    """Return a training step of baregpt."""
    from baregpt.trainer import TrainConfig, train
    from pipeline.common.process import keep_freed_memory

    keep_freed_memory()  # as the train stage does
    model, ids = prepare(shape)
    settings = {"steps": 10**9, "batch_size": shape["batch_size"], "evaluation_interval": 10**9}
    steps = train(model, ids, ids, TrainConfig(**settings | ({"shards": shards} if shards else {})))
    return lambda: next(steps)[1]


def pytorch(shape, compiled):
    """Return a training step of PyTorch with the same model and batches."""
    import torch

    from baregpt.trainer import TrainConfig, random_windows
    from benchmarks.torch_gpt import TorchGPT, train_step

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model, ids = prepare(shape)
    torch_model = TorchGPT(model.config)
    torch_model.load(model.parameters)
    step, numbers = train_step(torch_model, compiled), itertools.count(1)
    seed = TrainConfig.seed
    size = shape["block_size"], shape["batch_size"]
    return lambda: step(*random_windows(ids, *size, (seed, next(numbers))))


def matrix_products(shape):
    """Return a function that computes only the matrix products of a training step of baregpt, in
    the same shards, with preallocated outputs.
    """
    from concurrent.futures import ThreadPoolExecutor

    from threadpoolctl import threadpool_limits

    from baregpt.layers import query_tiles
    from baregpt.trainer import TrainConfig

    threads = int(os.environ["OMP_NUM_THREADS"])
    threadpool_limits(1)
    T, D, H, V = shape["block_size"], shape["d_model"], shape["n_heads"], shape["vocab_size"]
    batch, products = shape["batch_size"] // TrainConfig.shards, []
    linear = [(D, 3 * D), (D, D), (D, 4 * D), (4 * D, D)] * shape["n_layers"]
    for inputs, outputs in [*linear, (D, V)]:
        x, w, dy = (
            np.ones(s, np.float32)
            for s in ((batch * T, inputs), (inputs, outputs), (batch * T, outputs))
        )
        products += [(x, w), (dy, w.T), (x.T, dy)]
    products.append((np.ones((V, batch * T), np.float32), np.ones((batch * T, D), np.float32)))
    heads = np.ones((batch, H, T, D // H), np.float32)
    for queries, keys in query_tiles(T, T):
        query, key = heads[:, :, queries], heads[:, :, keys]
        attn = query @ key.swapaxes(2, 3)
        forward = [(query, key.swapaxes(2, 3)), (attn, key)]
        backward = [*forward, (attn.swapaxes(2, 3), query), (attn.swapaxes(2, 3), query)]
        products += (forward + backward) * shape["n_layers"]
    # outputs for each thread
    shards = [[(a, b, a @ b) for a, b in products] for _ in range(threads)]
    pool = ThreadPoolExecutor(threads)

    def multiply(shard):
        for a, b, out in shards[shard % threads]:
            np.matmul(a, b, out=out)

    return lambda: list(pool.map(multiply, range(TrainConfig.shards))) and None


def sampling(count, streams=1):
    """Return a function that samples `count` characters per stream, with a full context."""
    from baregpt import Vocab, generate_batch

    model, _ = prepare(DEFAULT)
    vocab = Vocab("".join(map(chr, range(58, 123))))
    stream = generate_batch(model, vocab, "KING", streams, 10**9, 0.8, 20, seed=1)
    list(itertools.islice(stream, model.config.block_size))
    return lambda: list(itertools.islice(stream, count)) and None


def sampling_products(count, streams):
    """Return a function that computes only the matrix products of sampling `count` characters, with
    all weights, and with keys and values of a context of average length.

    The operands start outside the core's cache, because the other implementations have evicted
    them.
    """
    model, _ = prepare(DEFAULT)
    T, D, H = DEFAULT["block_size"], DEFAULT["d_model"], DEFAULT["n_heads"]
    length = T * 5 // 8  # a full context is cut to a quarter
    row, wide = np.ones((streams, D), np.float32), np.ones((streams, 4 * D), np.float32)
    query = np.ones((streams, H, 1, D // H), np.float32)
    attn = np.ones((streams, H, 1, length), np.float32)
    products = []
    for block in model.blocks:
        key, value = np.ones((2, streams, H, T, D // H), np.float32)[:, :, :, :length]
        products += [(row, block["attention.qkv"]), (query, key.swapaxes(2, 3)), (attn, value)]
        products += [(row, block["attention.out"]), (row, block["mlp.w1"]), (wide, block["mlp.w2"])]
    products.append((row, model.parameters["head.weight"]))
    outputs = [a @ b for a, b in products]

    def multiply():
        for _ in range(count):
            for (a, b), out in zip(products, outputs):
                np.matmul(a, b, out=out)

    return multiply


def pytorch_sampling(count, cached):
    """Return a function that samples `count` characters with PyTorch."""
    import torch

    from benchmarks.torch_gpt import TorchGPT

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model, _ = prepare(DEFAULT)
    torch_model = TorchGPT(model.config).eval()
    torch_model.load(model.parameters)
    stream = torch_model.generate([1, 2, 3, 4], 10**9, 0.8, 20, cached)
    list(itertools.islice(stream, model.config.block_size))
    return lambda: list(itertools.islice(stream, count)) and None


IMPLEMENTATIONS = {
    f.__name__: f
    for f in (baregpt_step, pytorch, matrix_products, sampling, sampling_products, pytorch_sampling)
}


def serve(connection, name, arguments):
    """Create an implementation and time it on request; runs in its own process."""
    work = IMPLEMENTATIONS[name](**arguments)
    connection.send(work())  # warm up; return the loss of a training step for comparison
    while repeats := connection.recv():
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
        connection.send((times, memory))


def compare(implementations, rounds, repeats, threads):
    """Time implementations alternately, in two passes.

    implementations: label -> (name, arguments). Each pass has `rounds` rounds and its own
    processes. The processes of the second pass start in the opposite order, because the first
    process to start can be slower for as long as it runs, presumably because of its memory pages.

    Return a dict from label to: `seconds`, the median time; `ratio`, the median over rounds of the
    time of the first implementation divided by the time of this one; and from the second pass
    `memory_mib`, the peak memory of the process, and `first`, the result of the first unit of work.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)  # inherited by the processes
    labels = list(implementations)
    times: dict[str, list[float]] = {label: [] for label in labels}
    last: dict[str, dict] = {}
    for order in (labels, labels[::-1]):
        entries = [(label, *start(*implementations[label])) for label in order]
        for i in range(rounds):
            for label, here, _, first in entries[:: 1 if i % 2 else -1]:
                here.send(repeats)
                new_times, memory = here.recv()
                times[label].append(statistics.median(new_times))
                last[label] = {"memory_mib": memory, "first": first}
        for _, here, process, _ in entries:
            here.send(0)
            process.join()
    return {
        label: {
            "seconds": statistics.median(times[label]),
            "ratio": statistics.median(map(operator.truediv, times[labels[0]], times[label])),
            **last[label],
        }
        for label in labels
    }


def start(name, arguments):
    """Start and warm up an implementation; return its connection, process and first result."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, name, arguments), daemon=True)
    process.start()
    there.close()  # so that recv fails if the implementation dies
    return here, process, here.recv()


# Measurements.


def compare_training(shape, rounds, repeats, threads, compiled=True):
    implementations = {
        "baregpt": ("baregpt_step", {"shape": shape}),
        "PyTorch": ("pytorch", {"shape": shape, "compiled": False}),
    }
    if compiled:
        implementations["PyTorch compiled"] = ("pytorch", {"shape": shape, "compiled": True})
    implementations["matrix products alone"] = ("matrix_products", {"shape": shape})
    results = compare(implementations, rounds, repeats, threads)
    losses = [result.pop("first") for result in results.values()]
    assert np.ptp([loss for loss in losses if loss]) < 1e-4, f"the models differ: losses {losses}"
    return results


def measure(quick):
    """Return all measurements as one dict."""
    rounds, variants = (2, VARIANTS[:1]) if quick else (4, VARIANTS)
    cores = os.cpu_count()
    threads = [n for n in (1, 2, 4, 8, 16, 32) if n <= cores]
    most = threads[-1]
    results = {
        "machine": {
            "cpu": cpu_name(),
            "vectors": vector_instructions(),
            "cores": cores,
            "python": platform.python_version(),
        }
        | {name: version(name) for name in ("numpy", "torch")},
        "threads": most,
    }
    plan = tqdm(total=2 + (not quick) + len(threads) + len(variants), disable=None)

    def done(name, value):
        results[name] = value
        plan.set_postfix_str(name)
        plan.update()

    done("training step", compare_training(DEFAULT, rounds, 5, most))
    for n in threads[:-1]:
        comparison = compare_training(DEFAULT, rounds // 2, 5, n, compiled=False)
        done(f"training step on {n} thread{'s' * (n > 1)}", comparison)
    for name, change in variants:
        shape = DEFAULT | change
        done(f"variant: {name}", compare_training(shape, rounds // 2, 3, most, compiled=False))
    if not quick:
        done("10.7 M parameters", compare_training(NANOGPT, 2, 1, most))
    shards = {
        f"{n} shards": ("baregpt_step", {"shape": DEFAULT, "shards": n}) for n in (4, 1, 2, 8, 16)
    }
    done("shards", compare(shards, rounds, 5, most))
    implementations = {
        "baregpt": ("sampling", {"count": 192}),
        "baregpt, 16 streams": ("sampling", {"count": 96, "streams": 16}),
        "products alone": ("sampling_products", {"count": 192, "streams": 1}),
        "products alone, 16 streams": ("sampling_products", {"count": 96, "streams": 16}),
        "PyTorch, KV cache": ("pytorch_sampling", {"count": 192, "cached": True}),
        "PyTorch, no cache": ("pytorch_sampling", {"count": 48, "cached": False}),
    }
    done("sampling", compare(implementations, rounds, 3, 1))  # on one thread: more make both slower
    for label, (_, arguments) in implementations.items():
        characters = arguments["count"] * arguments.get("streams", 1)
        measured = results["sampling"][label]
        measured["characters_per_second"] = characters / measured["seconds"]
    return results


# Output.


def cpu_name():
    """Return the name of the processor, from Linux or Python."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def vector_instructions():
    """Return the widest vector instructions that NumPy found, and the kernels of its BLAS."""
    from threadpoolctl import threadpool_info

    found = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    kernels = [
        library["architecture"] for library in threadpool_info() if "architecture" in library
    ]
    return ", ".join([*found[-1:], *(f"BLAS for {kernel}" for kernel in kernels)])


def table(results):
    """Return the results as text."""
    lines = [", ".join(str(value) for value in results["machine"].values()), ""]

    def row(*cells):
        lines.append(f"{cells[0]:34s}" + "".join(f"{cell:>16s}" for cell in cells[1:]))

    def comparison_rows(title, entries):
        row(title, "ms", "baregpt takes", "peak MiB")
        for label, entry in entries.items():
            ratio = f"{entry['ratio']:.2f} x" if label != "baregpt" else ""
            row(f"  {label}", f"{entry['seconds'] * 1e3:.1f}", ratio, f"{entry['memory_mib']:.0f}")
        lines.append("")

    for name, entries in results.items():
        if name.startswith(("training", "variant", "10.7")):
            comparison_rows(name, entries)
    row("shards", "ms", "4 shards take")
    for label, entry in results["shards"].items():
        row(f"  {label}", f"{entry['seconds'] * 1e3:.1f}", f"{entry['ratio']:.2f} x")
    lines.append("")
    row("sampling", "characters/s", "peak MiB")
    for label, entry in results["sampling"].items():
        row(f"  {label}", f"{entry['characters_per_second']:.0f}", f"{entry['memory_mib']:.0f}")
    return "\n".join(lines)


def draw(results, path):
    """Plot the time of a training step and the sampling speed as bars."""
    figure = Figure(figsize=(9, 3.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    machine = results["machine"]
    for axes, entries, value, unit, title in [
        (
            left,
            results["training step"],
            lambda entry: entry["seconds"] * 1e3,
            "ms",
            "Training step (lower is better)",
        ),
        (
            right,
            results["sampling"],
            lambda entry: entry["characters_per_second"],
            "",
            "Sampling, chars/s (higher is better)",
        ),
    ]:
        labels = list(entries)[::-1]
        colors = ["tab:orange" if label.startswith("baregpt") else "tab:gray" for label in labels]
        bars = axes.barh(labels, [value(entries[label]) for label in labels], color=colors)
        axes.bar_label(bars, fmt=f"%.0f {unit}", padding=3)
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    cpu = f"{machine['cpu']} ({machine['vectors']})"
    figure.supxlabel(f"{cpu}, {results['threads']} threads (sampling: 1)", fontsize=8)
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="short run with few repeats that writes no files"
    )
    options = parser.parse_args()
    results = measure(options.quick)
    if not options.quick:
        (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        draw(results, HERE / "results.png")
    print(table(results))


if __name__ == "__main__":
    main()
