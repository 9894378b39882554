"""Training on many processes, MPI's ranks: each holds the model, and takes its part of every batch.

`ranks.launcher` in params.yaml is the command that starts them. Without one nothing here is used,
and MPI not imported.
"""

import contextlib
import os
import platform
import signal
import time

import numpy as np

from baregpt.model import named_views
from baregpt.trainer import sum_tree
from pipeline.common.stage import STOPS, run

PATIENCE = 10  # seconds that a rank waits for another, beyond five times what its own work took
PATIENCE_WITH_FIRST = 600  # while the first writes a checkpoint and talks to MLflow
PATIENCE_TO_MEET = 60  # seconds that ranks take to find each other, and to part
SIZES = "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"  # launchers say how many ranks


@contextlib.contextmanager
def at_most(seconds):
    """Be killed if it takes longer: MPI waits without end, and hears no other signal."""
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


class Ranks:
    """This process, `rank`, among the `count` that share a training out."""

    def __init__(self):
        try:
            with at_most(PATIENCE_TO_MEET):
                from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            needs = f"ranks.launcher needs mpi4py and MPI ({reason})"
            raise ValueError(f"{needs}: `pip install .[mpi]`") from None
        self.mpi, self.comm = MPI, MPI.COMM_WORLD
        self.rank, self.count, self.host = self.comm.rank, self.comm.size, platform.node()
        self.hosts, self.met = [self.host] * self.count, time.monotonic()
        if self.count == 1 < max(int(os.environ.get(name, 1)) for name in SIZES):
            other = "ranks.launcher is of another MPI than mpi4py's"
            raise ValueError(f"{other}: its ranks do not find each other")

    def start(self, shards, identity, begun, arrays):
        """Have all ranks go on from the first one's arrays, and from what it has `begun`.

        ValueError if the shards cannot be shared out, or if ranks differ in params, text or code.
        """
        if self.count & (self.count - 1) or shards % self.count:
            powers = [str(1 << k) for k in range(shards.bit_length()) if shards % (1 << k) == 0]
            need = f"{shards} shards need {' or '.join(powers)}"
            raise ValueError(f"ranks.launcher starts {self.count} ranks: {need}")
        with at_most(PATIENCE_WITH_FIRST if self.rank else PATIENCE_TO_MEET):
            everybody = self.comm.allgather((self.host, identity))
            self.hosts = [host for host, _ in everybody]
            for rank, (host, theirs) in enumerate(everybody):
                if theirs != identity:
                    other = "other params, text, code or NumPy"
                    raise ValueError(f"rank {rank}, on {host}, has {other} than {self.host}")
            begun = self.comm.bcast(begun)
            for array in arrays.values():
                self.comm.Bcast(array)
        self.met = time.monotonic()
        return begun

    def part(self):
        """Let go of the others, when there is nothing more to share."""
        with at_most(PATIENCE_TO_MEET):
            self.mpi.Finalize()

    def total(self, array, patience=PATIENCE):
        """Add up, in place, what all ranks have in an array: along a binary tree, so the same bits
        on each of them.

        At level k each rank trades with the one that differs from it in bit k.
        """
        theirs = np.empty_like(array)
        now = time.monotonic()
        deadline = now + patience + 5 * (now - self.met)
        for k in range(self.count.bit_length() - 1):
            other = self.rank ^ (1 << k)
            trade = [self.comm.Irecv(theirs, other), self.comm.Isend(array, other)]
            while not self.mpi.Request.Testall(trade):
                time.sleep(0)
                if time.monotonic() > deadline:
                    who = f"rank {other}, on {self.hosts[other]}, has not answered"
                    me = f"rank {self.rank}, on {self.host}, for {time.monotonic() - now:.0f} s"
                    end(f"error: {who} {me}")
            array += theirs
        self.met = time.monotonic()
        return array

    def wait_for_first(self):
        """Go on together, however long the first rank was busy with files and MLflow."""
        self.total(np.zeros(1), PATIENCE_WITH_FIRST if self.rank else PATIENCE)

    def share(self, local_map):
        """A map over all ranks: each works on one stretch of the items, with the map over its own
        threads.

        Of numbers all are returned; of gradients their sum, along the same tree as if one rank had
        made them all.
        """

        def sum_all(gradients):
            names = list(gradients[0])
            sums = list(local_map(lambda name: sum_tree([part[name] for part in gradients]), names))
            shapes = {name: array.shape for name, array in zip(names, sums)}
            flat = np.concatenate([array.ravel() for array in sums])
            return named_views(self.total(flat), shapes)

        def everywhere(function, *items):
            count = len(items[0])
            mine = slice(count * self.rank // self.count, count * (self.rank + 1) // self.count)
            results = list(local_map(function, *(item[mine] for item in items)))
            with_gradients = results and isinstance(results[0], tuple)
            # those of the others stay zero, so that the total is what each has found
            numbers = np.zeros(count)
            numbers[mine] = [loss for loss, _ in results] if with_gradients else results
            numbers = self.total(numbers).tolist()
            if not with_gradients:
                return numbers
            gradient = sum_all([gradient for _, gradient in results])
            nothing = {name: array.dtype.type(0) for name, array in gradient.items()}
            return list(zip(numbers, [gradient] + [nothing] * (count - 1)))

        return everywhere


@contextlib.contextmanager
def said_by_first(group):
    """What goes wrong on all ranks alike, a divergence, the first says, and then ends the rest."""
    try:
        yield
    except ValueError:
        if group and group.rank:
            time.sleep(PATIENCE_WITH_FIRST)
        raise


def end(message):
    """End this rank, and with it all: `launch` sees to that when it reads the message, launchers do
    when a rank ends. MPI's own Abort would wait for one that is out of reach.
    """
    for stop in STOPS:
        signal.signal(stop, signal.SIG_DFL)
    print(f"{message}\n", end="", flush=True)  # at once, whole
    time.sleep(5)  # the end of a rank can overtake the message
    os._exit(1)


def run_rank(stage):
    """Run a stage as one rank: an error of any ends all."""
    try:
        run(lambda: stage(Ranks()))
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            end(stopped.code)
        os._exit(1)  # whoever stopped it stops the others
    except Exception as error:  # of MPI, or a defect: without an end, the others would wait
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        end(f"error: a rank on {platform.node()}: {said}")
