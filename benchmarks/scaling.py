"""Scaling of training over MPI ranks: python -m benchmarks.scaling

Measure steps on one and two ranks of this machine alternately, and the all-reduce of gradients
between two ranks. Fit

    step time = fixed + time per window · windows per rank + log2(ranks) · (latency + bytes /
    bandwidth)

to the all-reduce and to the steps of one rank, and test it on steps of two ranks. Predict the step
time for more hosts and assumed networks. Write scaling.json and docs/scaling.png.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from baregpt.trainer import TrainConfig, train
from benchmarks.bench import DEFAULT, HERE, NANOGPT, cpu_name, prepare
from pipeline.common.process import keep_freed_memory
from pipeline.training.communicator import Communicator

ROUNDS = 2
MODELS = {
    "1.6 M parameters": (DEFAULT, (8, 16), (16, 32)),
    "10.7 M parameters": (NANOGPT, (4, 8), (8, 16)),
}
# latency in s, bandwidth in bytes per second; assumed, typical values
NETWORKS = {"1 Gbit/s": (1e-4, 1.25e8), "10 Gbit/s": (5e-5, 1.25e9)}
WINDOWS = 64  # per step, in the predictions


def measure_steps(shape, batch_size, steps):
    """Return the median seconds of a training step on the launched ranks."""
    keep_freed_memory()
    communicator = Communicator()
    model, ids = prepare(shape)
    config = TrainConfig(steps=1000, batch_size=batch_size, shards=4, evaluation_interval=1000)
    progress, times = train(model, ids, ids, config, distribute=communicator.distribute), []
    for _ in range(steps + 2):
        start = time.perf_counter()
        next(progress)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def measure_allreduce(sizes, repeats=30):
    """Return the median seconds of summing an array over all ranks, for each size in bytes: in our
    fixed order ("tree") and with MPI's own all-reduce.
    """
    communicator, found = Communicator(), {}
    for size in sizes:
        array = np.ones(size // 4, np.float32)

        def plain(array=array):
            communicator.comm.Allreduce(communicator.mpi.IN_PLACE, array)

        def tree(array=array):
            communicator.allreduce_sum(array)

        for name, allreduce in (("tree", tree), ("all-reduce", plain)):
            times = []
            for _ in range(repeats):
                communicator.comm.Barrier()
                array[:] = 1
                start = time.perf_counter()
                allreduce()
                times.append(time.perf_counter() - start)
            found[f"{name} {size}"] = statistics.median(times)
    return found


def run_on_ranks(ranks, threads, function, *arguments):
    """Run a function of this module on `ranks` ranks of this machine; return its result."""
    command = [
        "mpirun",
        "-n",
        str(ranks),
        sys.executable,
        "-m",
        "benchmarks.scaling",
        function,
        json.dumps(arguments),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return json.loads(subprocess.check_output(command, env=environment, text=True, cwd=HERE.parent))


def measure():
    """Return the measurements of each round and the sizes of the all-reduce. A round measures each
    configuration once, because the speed of a machine drifts.
    """
    rounds = []
    jobs = {}
    for name, (shape, fitted, checked) in MODELS.items():
        steps = 20 if shape is DEFAULT else 3
        for batch_size in sorted({*fitted, *checked}):
            if batch_size in fitted:
                jobs[f"{name}, 1 rank of 1 thread, {batch_size} windows"] = (
                    1,
                    1,
                    shape,
                    batch_size,
                    steps,
                )
            if batch_size in checked:
                jobs[f"{name}, 1 rank of 2 threads, {batch_size} windows"] = (
                    1,
                    2,
                    shape,
                    batch_size,
                    steps,
                )
                jobs[f"{name}, 2 ranks of 1 thread, {batch_size} windows"] = (
                    2,
                    1,
                    shape,
                    batch_size,
                    steps,
                )
    sizes = [1 << 16, 1 << 20, 6_574_340, 42_800_000]
    for _ in tqdm(range(ROUNDS), disable=None):
        found = {
            name: run_on_ranks(job[0], job[1], "measure_steps", *job[2:])
            for name, job in jobs.items()
        }
        rounds.append(found | run_on_ranks(2, 1, "measure_allreduce", sizes))
    return rounds, sizes


def fit(rounds, sizes):
    """Fit the model of the step time; return its coefficients and its predictions for two ranks."""
    median = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    seconds_per_byte, latency = np.polyfit(sizes, [median[f"tree {size}"] for size in sizes], 1)
    results = {
        "latency": max(0.0, float(latency)),
        "bandwidth": 1 / float(seconds_per_byte),
        "median seconds": median,
    }
    for name, (shape, fitted, checked) in MODELS.items():
        model, _ = prepare(shape)
        times = [
            median[f"{name}, 1 rank of 1 thread, {batch_size} windows"] for batch_size in fitted
        ]
        window = (times[1] - times[0]) / (fitted[1] - fitted[0])
        numbers = {
            "window": window,
            "fixed": times[0] - window * fitted[0],
            "bytes": model.flat.nbytes,
        }
        allreduce = results["latency"] + numbers["bytes"] / results["bandwidth"]
        for batch_size in checked:
            two, one = (
                f"{name}, {kind}, {batch_size} windows"
                for kind in ("2 ranks of 1 thread", "1 rank of 2 threads")
            )
            predicted = numbers["fixed"] + window * batch_size / 2 + allreduce
            numbers[f"{batch_size} windows"] = {
                "predicted": predicted,
                "measured": median[two],
                "2 ranks of 1 thread / 1 rank of 2": statistics.median(
                    found[two] / found[one] for found in rounds
                ),
            }
        results[name] = numbers
    return results


def step_time(numbers, ranks, latency, bandwidth):
    """Return the predicted seconds of a step of 64 windows on `ranks` ranks."""
    allreduce = math.log2(ranks) * (latency + numbers["bytes"] / bandwidth)
    return numbers["fixed"] + numbers["window"] * WINDOWS / ranks + allreduce


def draw(results, path):
    """Plot the predicted speed-up against the number of hosts."""
    figure = Figure(figsize=(9, 4.2), dpi=120, layout="constrained")
    counts = [1 << k for k in range(7)]
    for axes, name in zip(figure.subplots(1, 2, sharey=True), MODELS):
        axes.plot(counts, counts, color="gray", linestyle=":", label="ideal")
        for (network, speed), color in zip(NETWORKS.items(), ("tab:orange", "tab:blue")):
            alone = step_time(results[name], 1, *speed)
            axes.plot(
                counts,
                [alone / step_time(results[name], n, *speed) for n in counts],
                "o-",
                color=color,
                label=network,
            )
        axes.set(
            title=f"{name}, {WINDOWS} windows per step", xlabel="hosts", xscale="log", yscale="log"
        )
        axes.set_xticks(counts, counts)
        axes.set_yticks(counts, counts)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.axes[0].set_ylabel("speed-up")
    figure.savefig(path)


def main():
    if len(sys.argv) == 3:  # as a rank
        found = globals()[sys.argv[1]](*json.loads(sys.argv[2]))
        if Communicator().rank == 0:
            print(json.dumps(found), flush=True)
        return
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    results = fit(*measure())
    predictions = {
        name: {
            network: [step_time(results[name], 1 << k, *speed) for k in range(7)]
            for network, speed in NETWORKS.items()
        }
        for name in MODELS
    }
    results |= {"machine": cpu_name(), "seconds per step on 1, 2, 4, ... 64 hosts": predictions}
    (HERE / "scaling.json").write_text(json.dumps(results, indent=2) + "\n")
    draw(results, HERE.parent / "docs/scaling.png")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
