"""Training on many processes, MPI's ranks: each holds the model, and takes its part of every batch.

`ranks.launcher` in params.yaml is the command that starts them. Without one nothing here is used,
and MPI not imported.
"""

import contextlib
import ctypes
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from baregpt.model import named_views
from baregpt.trainer import sum_tree
from pipeline.stage import run

AS_RANK = "--rank"  # what tells a process that it was launched
PATIENCE = 10  # seconds that a rank waits for another, beyond five times what its own work took
PATIENCE_WITH_FIRST = 600  # while the first writes a checkpoint and talks to MLflow
PATIENCE_TO_MEET = 60  # seconds that ranks take to find each other, and to part
# where launchers say how many ranks they start
SIZES = "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"
# what launchers say of an end
NOISE = re.compile(r"[=-]{5,}|prterun|\[\S+:\d+\]|Abort\(|application called MPI_Abort")


class Ranks:
    """This process, `rank`, among the `count` that share a training out."""

    def __init__(self):
        self.sound_alarm(PATIENCE_TO_MEET)
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            needs = f"ranks.launcher needs mpi4py and MPI ({reason})"
            raise ValueError(f"{needs}: `pip install .[mpi]`") from None
        self.mpi, self.comm = MPI, MPI.COMM_WORLD
        self.rank, self.count, self.host = self.comm.rank, self.comm.size, platform.node()
        self.hosts, self.met = [self.host] * self.count, time.monotonic()
        signal.alarm(0)
        if self.count == 1 < max(int(os.environ.get(name, 1)) for name in SIZES):
            other = "ranks.launcher is of another MPI than mpi4py's"
            raise ValueError(f"{other}: its ranks do not find each other")

    def start(self, shards, identity, begun, arrays):
        """What the first rank has `begun`, after it has put the same numbers into everybody's
        arrays.

        ValueError if the shards cannot be shared out, or if ranks differ in params, text or code.
        """
        self.sound_alarm(PATIENCE_WITH_FIRST if self.rank else PATIENCE_TO_MEET)
        if self.count & (self.count - 1) or shards % self.count:
            powers = [str(1 << k) for k in range(shards.bit_length()) if shards % (1 << k) == 0]
            need = f"{shards} shards need {' or '.join(powers)}"
            raise ValueError(f"ranks.launcher starts {self.count} ranks: {need}")
        everybody = self.comm.allgather((self.host, identity))
        self.hosts = [host for host, _ in everybody]
        for rank, (host, theirs) in enumerate(everybody):
            if theirs != identity:
                other = "other params, text, code or NumPy"
                raise ValueError(f"rank {rank}, on {host}, has {other} than {self.host}")
        begun = self.comm.bcast(begun)
        for array in arrays.values():
            self.comm.Bcast(array)
        signal.alarm(0)
        self.met = time.monotonic()
        return begun

    def part(self):
        """Let go of the others, when there is nothing more to share."""
        self.sound_alarm(PATIENCE_TO_MEET)
        self.mpi.Finalize()
        signal.alarm(0)

    def sound_alarm(self, seconds):
        """Let this process be killed after so many seconds: MPI waits without end, and hears no
        other signal.
        """
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)

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
                    for_ = f"rank {self.rank}, on {self.host}, for {time.monotonic() - now:.0f} s"
                    self.end(f"error: {who} {for_}")
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

        def everywhere(function, *items):
            count = len(items[0])
            mine = slice(count * self.rank // self.count, count * (self.rank + 1) // self.count)
            results = list(local_map(function, *(item[mine] for item in items)))
            with_gradients = bool(results) and isinstance(results[0], tuple)
            # those of the others stay zero, so that the total is what each has found
            numbers = np.zeros(count)
            numbers[mine] = [result[0] for result in results] if with_gradients else results
            numbers = self.total(numbers).tolist()
            if not with_gradients:
                return numbers
            gradients = [gradient for _, gradient in results]
            shapes = {name: array.shape for name, array in gradients[0].items()}
            flat = np.empty(
                sum(array.size for array in gradients[0].values()),
                next(iter(gradients[0].values())).dtype,
            )
            views = named_views(flat, shapes)

            def sum_mine(name):
                views[name][...] = sum_tree([gradient[name] for gradient in gradients])

            list(local_map(sum_mine, views))
            self.total(flat)
            nothing = dict.fromkeys(views, flat.dtype.type(0))
            return list(zip(numbers, [views] + [nothing] * (count - 1)))

        return everywhere

    def end(self, message=None):
        """End all ranks, with a message, if there is one, to the person who started them."""
        for stop in (signal.SIGINT, signal.SIGTERM):
            signal.signal(stop, signal.SIG_DFL)
        if message:
            sys.stdout.write(f"{message}\n")  # at once, whole
            sys.stdout.flush()
            # `launch` ends all as soon as it reads this; the end of a rank can overtake the message
            time.sleep(5)
        # Upon this launchers end the others; MPI's own Abort waits for one that is out of reach.
        os._exit(1)


@contextlib.contextmanager
def said_by_first(group):
    """What goes wrong on all ranks alike, a divergence, the first says, and then ends the rest."""
    try:
        yield
    except ValueError:
        if group and group.rank:
            time.sleep(PATIENCE_WITH_FIRST)
        raise


def run_rank(stage):
    """Run a stage as one rank: an error of any ends all."""
    ranks = None

    def with_ranks():
        nonlocal ranks
        ranks = Ranks()
        stage(ranks)

    try:
        run(with_ranks)
    except SystemExit as end:
        if ranks and end.code:
            # who is stopped has nothing to say
            ranks.end(end.code if isinstance(end.code, str) else None)
        raise
    except Exception as error:  # of MPI, or a defect: without an end, the others would wait
        if ranks:
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            ranks.end(f"error: rank {ranks.rank}, on {ranks.host}: {said}")
        raise


def follow_this_process():
    """Have Linux end the launcher with the process that waits for it, however that ends."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def end_all(launcher):
    """End a launcher, and what it has started on this machine: with itself if possible, else each
    by force.
    """
    if launcher.poll() is None:
        launcher.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(5)
    launcher.kill()
    launcher.wait()
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    while children.exists() and (orphans := children.read_text().split()):
        for orphan in map(int, orphans):
            os.kill(orphan, signal.SIGKILL)
            os.waitpid(orphan, 0)


def launch(launcher):
    """Run this program on ranks, and print what the first of them says. ValueError, in one line, if
    they fail.
    """
    try:
        command = [*shlex.split(launcher), sys.executable, *sys.orig_argv[1:], AS_RANK]
    except ValueError as error:
        raise ValueError(f"params.yaml: ranks.launcher is {launcher!r}: {error}") from None
    if platform.system() == "Linux":
        # PR_SET_CHILD_SUBREAPER: what the launcher leaves behind comes to this process
        ctypes.CDLL(None).prctl(36, 1)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=follow_this_process,
        )
    except OSError as error:
        reason = f"cannot run {command[0]}: {error.strerror}"
        raise ValueError(f"params.yaml: ranks.launcher: {reason}") from None
    failure: str | None = None
    begun = False
    held: list[str] = []  # what launchers say when they end, or before they begin
    try:
        for line in process.stdout or ():
            if line.startswith("error: "):
                failure = line.removeprefix("error: ").strip()
            if failure:
                break
            begun = begun or line.endswith(" ranks\n")
            if held or NOISE.match(line):
                held.append(line)
            if not held or line.startswith("step "):
                print(*held or [line], sep="", end="", flush=True)
                held.clear()
        if not failure:
            process.wait()
    finally:
        end_all(process)
    if process.returncode or failure:
        if not failure and not begun:  # its launcher may say why
            print(*held, sep="", end="", flush=True)
        died = f"a rank died, or `{launcher}` failed, with exit code {process.returncode}"
        raise ValueError(
            failure or f"{died}: run again to go on from the last checkpoint, if there is one"
        )
