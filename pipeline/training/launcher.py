"""Running this command on several MPI ranks, with `ranks.launcher`."""

import os
import platform
import shlex
import shutil
import subprocess
import sys

import psutil

from pipeline.common.process import die_with_parent
from pipeline.common.stage import run
from pipeline.training.communicator import Communicator, abort

RANK_FLAG = "--rank"  # argument of a process that was launched as a rank


def terminate_all(launcher):
    """Terminate a launcher and its local processes; kill those that remain after five seconds."""
    started = psutil.Process().children(recursive=True)
    launcher.terminate()
    _, remaining = psutil.wait_procs(started, timeout=5)
    for process in remaining:
        process.kill()
    psutil.wait_procs(remaining)


def launch(launcher):
    """Run this command on several ranks and print their output. Raises ValueError, with a one-line
    message, if they or the launcher fail.
    """
    if platform.system() == "Windows":
        raise ValueError("ranks.launcher requires Linux or macOS; on Windows, run it in WSL")
    try:
        command = [*shlex.split(launcher), sys.executable, *sys.orig_argv[1:], RANK_FLAG]
    except ValueError as error:
        raise ValueError(
            f"ranks.launcher ({launcher!r}) must be a shell command: {error}"
        ) from None
    if not shutil.which(command[0]):
        raise ValueError(f"ranks.launcher: command not found: {command[0]}")
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C reaches only this process, which stops the others
            preexec_fn=die_with_parent,
        )
    except OSError as error:
        raise ValueError(f"ranks.launcher cannot run {command[0]}: {error.strerror}") from None
    try:
        for line in process.stdout or ():
            if line.startswith("error: "):
                raise ValueError(line.removeprefix("error: ").strip())
            print(line, end="", flush=True)
        code = process.wait()
    finally:
        terminate_all(process)
    if code:
        raise ValueError(
            f"a rank died or `{launcher}` failed with exit code {code}; run again to resume from"
            " the last checkpoint, if there is one"
        )


def run_rank(stage):
    """Run a stage, `stage(communicator)`, as one rank; an error on any rank ends all."""

    def start():
        communicator = Communicator()
        if communicator.rank == 0:
            print(f"training on {communicator.size} ranks")
        stage(communicator)

    try:
        run(start)
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            abort(stopped.code.removeprefix("error: "))
        os._exit(1)  # the process that stopped this rank also stops the others
    except Exception as error:  # an MPI error or a defect: otherwise, the other ranks would wait
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        abort(f"a rank on {platform.node()} failed with {reason}")
