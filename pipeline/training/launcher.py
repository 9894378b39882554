"""Starting this program on many processes, by the command in params.yaml, `ranks.launcher`."""

import ctypes
import platform
import shlex
import signal
import subprocess
import sys

import psutil

AS_RANK = "--rank"  # what tells a process that it was launched


def follow_this_process():
    """Have Linux end the launcher with the process that waits for it, however that ends."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def end_all(launcher):
    """End a launcher, and what it has started here: by its own means if possible, else by force."""
    started = psutil.Process().children(recursive=True)
    launcher.terminate()
    _, left = psutil.wait_procs(started, timeout=5)
    for process in left:
        process.kill()
    psutil.wait_procs(left)


def launch(launcher):
    """Run this program on ranks, and print what they and their launcher say. ValueError, in one
    line, if they fail.
    """
    try:
        command = [*shlex.split(launcher), sys.executable, *sys.orig_argv[1:], AS_RANK]
    except ValueError as error:
        raise ValueError(f"params.yaml: ranks.launcher is {launcher!r}: {error}") from None
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which ends the others
            preexec_fn=follow_this_process,
        )
    except OSError as error:
        reason = f"cannot run {command[0]}: {error.strerror}"
        raise ValueError(f"params.yaml: ranks.launcher: {reason}") from None
    try:
        for line in process.stdout or ():
            if line.startswith("error: "):
                raise ValueError(line.removeprefix("error: ").strip())
            print(line, end="", flush=True)
        code = process.wait()
    finally:
        end_all(process)
    if code:
        died = f"a rank died, or `{launcher}` failed, with exit code {code}"
        again = "run again to go on from the last checkpoint, if there is one"
        raise ValueError(f"{died}: {again}")
