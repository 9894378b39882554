"""Data-parallel training on MPI ranks: each holds the whole model and a part of every batch.

`ranks.launcher` in params.yaml is the command that starts the ranks. Without it, MPI is not
imported.
"""

import contextlib
import os
import platform
import signal
import time

import numpy as np

from baregpt.model import named_views
from baregpt.trainer import pairwise_sum
from pipeline.common.stage import STOP_SIGNALS

# seconds to wait for another rank, in addition to five times the duration of this rank's own work
RANK_TIMEOUT = 10
ROOT_TIMEOUT = 600  # seconds to wait for rank 0 while it writes a checkpoint and logs to MLflow
CONNECT_TIMEOUT = 60  # seconds in which the ranks have to connect, and to disconnect
SIZE_VARIABLES = "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"  # set by launchers


@contextlib.contextmanager
def kill_after(seconds):
    """Kill this process if the block takes longer: a blocked MPI call reacts to nothing else."""
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


class SingleProcess:
    """The communicator of a process that trains alone."""

    rank, size = 0, 1

    def broadcast_state(self, shards, fingerprint, state, arrays):
        return state

    def distribute(self, local_map):
        return local_map

    def barrier(self):
        pass

    def disconnect(self):
        pass


class Communicator:
    """MPI communication of this process, rank `rank` of the `size` ranks that train together."""

    def __init__(self):
        try:
            with kill_after(CONNECT_TIMEOUT):
                from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"ranks.launcher requires mpi4py and an MPI library ({reason}); run"
                " `pip install -e .[mpi]`"
            ) from None
        self.mpi, self.comm = MPI, MPI.COMM_WORLD
        self.rank, self.size, self.host = self.comm.rank, self.comm.size, platform.node()
        self.hosts, self.last_sync = [self.host] * self.size, time.monotonic()
        started = max(int(os.environ.get(name, 1)) for name in SIZE_VARIABLES)
        if self.size == 1 and started > 1:
            raise ValueError("ranks.launcher and mpi4py must use the same MPI implementation")

    def broadcast_state(self, shards, fingerprint, state, arrays):
        """Copy rank 0's arrays to all ranks, in place, and return its `state`.

        Raises ValueError if the shards cannot be distributed evenly or the ranks' inputs differ.
        """
        if self.size & (self.size - 1) or shards % self.size:
            allowed = [str(1 << k) for k in range(shards.bit_length()) if shards % (1 << k) == 0]
            raise ValueError(
                f"ranks.launcher started {self.size} ranks, but with train.shards ({shards}) their"
                f" number must be one of {', '.join(allowed)}"
            )
        with kill_after(ROOT_TIMEOUT if self.rank else CONNECT_TIMEOUT):
            gathered = self.comm.allgather((self.host, fingerprint))
            self.hosts = [host for host, _ in gathered]
            for rank, (host, other) in enumerate(gathered):
                if other != fingerprint:
                    raise ValueError(
                        f"rank {rank} on {host} and rank {self.rank} on {self.host} must have the"
                        " same params, corpus, code and NumPy version"
                    )
            state = self.comm.bcast(state)
            for array in arrays.values():
                self.comm.Bcast(array)
        self.last_sync = time.monotonic()
        return state

    def disconnect(self):
        """Leave MPI, after the last collective operation."""
        with kill_after(CONNECT_TIMEOUT):
            self.mpi.Finalize()

    def allreduce_sum(self, array, timeout=RANK_TIMEOUT):
        """Sum an array over all ranks, in place, by recursive doubling: bitwise identical on each.

        At level k, each rank exchanges with the one whose number differs in bit k.
        """
        received = np.empty_like(array)
        start = time.monotonic()
        deadline = start + timeout + 5 * (start - self.last_sync)
        for k in range(self.size.bit_length() - 1):
            other = self.rank ^ (1 << k)
            requests = [self.comm.Irecv(received, other), self.comm.Isend(array, other)]
            while not self.mpi.Request.Testall(requests):
                time.sleep(0)
                if time.monotonic() > deadline:
                    abort(
                        f"rank {other} on {self.hosts[other]} has not answered rank {self.rank} on"
                        f" {self.host} for {time.monotonic() - start:.0f} s"
                    )
            array += received
        self.last_sync = time.monotonic()
        return array

    def barrier(self):
        """Wait for all ranks, and longer for rank 0, which writes files and logs to MLflow."""
        self.allreduce_sum(np.zeros(1), ROOT_TIMEOUT if self.rank else RANK_TIMEOUT)

    def distribute(self, local_map):
        """Return a `map` over all ranks: each applies `local_map`, a map over its own threads, to
        its own contiguous part of the items.

        If the function returns a number, the map returns the numbers of all items. If it returns
        (loss, gradients), the map returns all losses; the first item carries the sum of all
        gradients, and the others zeros, so that `pairwise_sum` over them leaves it unchanged.
        """

        def sum_gradients(gradients):
            names = list(gradients[0])
            sums = list(
                local_map(lambda name: pairwise_sum([one[name] for one in gradients]), names)
            )
            shapes = {name: array.shape for name, array in zip(names, sums)}
            flat = np.concatenate([array.ravel() for array in sums])
            return named_views(self.allreduce_sum(flat), shapes)

        def map_shards(function, *items):
            count = len(items[0])
            own = slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)
            results = list(local_map(function, *(item[own] for item in items)))
            with_gradients = results and isinstance(results[0], tuple)
            # zero for the items of the other ranks, so that the sum gathers all numbers
            numbers = np.zeros(count)
            numbers[own] = [loss for loss, _ in results] if with_gradients else results
            numbers = self.allreduce_sum(numbers).tolist()
            if not with_gradients:
                return numbers
            gradients = sum_gradients([gradients for _, gradients in results])
            zeros = {name: array.dtype.type(0) for name, array in gradients.items()}
            return list(zip(numbers, [gradients] + [zeros] * (count - 1)))

        return map_shards


@contextlib.contextmanager
def report_on_rank_zero(communicator):
    """On the other ranks, hold back an error that all ranks raise, such as divergence: rank 0
    reports it, and its exit ends them.
    """
    try:
        yield
    except ValueError:
        if communicator.rank:
            time.sleep(ROOT_TIMEOUT)
        raise


def abort(message):
    """Print an error and exit, which ends training on all ranks: `launch` stops the ranks when it
    reads the message, and launchers do so when a rank exits. MPI's Abort would wait for unreachable
    ranks.
    """
    for stop in STOP_SIGNALS:
        signal.signal(stop, signal.SIG_DFL)
    print(f"error: {message}\n", end="", flush=True)  # in one write, so that lines do not mix
    time.sleep(5)  # otherwise, the exit code could arrive before the message
    os._exit(1)
