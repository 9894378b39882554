"""With the functions that Python lacks on Windows removed, everything but ranks works."""

STAGES = """
import platform, runpy, signal, subprocess, sys

import filelock, mlflow.pyfunc  # they have other ways on Windows

for name in ("SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "alarm", "pause", "setitimer", "sigwait"):
    delattr(signal, name)
signal.Signals = [s for s in signal.Signals if hasattr(signal, s.name)]
for name in ("fcntl", "grp", "pwd", "resource"):
    sys.modules[name] = None  # importing it is an error
popen = subprocess.Popen.__init__


def windows_popen(*arguments, preexec_fn=None, **options):
    assert preexec_fn is None
    popen(*arguments, **options)


subprocess.Popen.__init__ = windows_popen
subprocess.Popen.kill = subprocess.Popen.terminate  # the same there
platform.system = lambda: "Windows"
from pipeline import check, deliver, evaluate, explore, export, plot_attention, prepare, register
from pipeline import sample, train, ui, vocab
from pipeline.common.stage import run

sys.argv = sys.argv[:1]
for command in (check, prepare, vocab, train, sample, evaluate, register):
    command.main()
try:
    train.launch("mpirun -n 2")
except ValueError as error:
    print(error)
run(plot_attention.main, "plot_attention")
"""


def test_every_command_runs_without_the_names_that_windows_lacks(fresh):
    result = fresh.run("python", "-c", STAGES)
    assert "registered baregpt version 1" in result.stdout
    assert "ranks.launcher requires Linux or macOS; on Windows, run it in WSL\n" in result.stdout
    assert result.stderr == ""
    assert (fresh.path / "data/explore.html").exists()
