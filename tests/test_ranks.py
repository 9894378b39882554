"""Training on several ranks is bitwise identical to training on one, and ends with a one-line error
if a rank fails.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import servers
from conftest import Checkout, delivered_runs, made_once, mlflow_runs, processes, samples_by_step

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"  # which is not on everybody's PATH
RESULTS = ["weights.pkl", "train_loss.csv", "validation_loss.csv", "loss.png", "metrics.json"]
RESULTS += ["snapshots.json"]
STEPS = 200
MANY = {
    "train": {"steps": STEPS, "evaluation_interval": 25, "shards": 4, "dropout": 0.1},
    "checkpoint": {"interval": 50},
}
ENDLESS = {  # its only checkpoint is that of the first step
    "train": {"steps": 1_000_000, "evaluation_interval": 25, "shards": 4},
    "checkpoint": {"interval": 1_000_000},
}


def results(checkout):
    return {name: (checkout.path / "data" / name).read_bytes() for name in RESULTS}


def train(checkout, launcher, code=0):
    checkout.set_params(ranks={"launcher": launcher})
    return checkout.stage("train", code=code)


@pytest.fixture(scope="session")
def alone(encoded_checkout, tmp_path_factory):
    """A checkout after a training run without a launcher. Not to be changed."""

    def make(checkout):
        shutil.copytree(encoded_checkout.path, checkout.path)
        checkout.set_params(**MANY)
        checkout.stage("train")

    return made_once(tmp_path_factory, "alone", make)


def ranks_of(checkout):
    """Process ids of the ranks, in the order in which they were started."""
    found = processes(checkout.path).items()
    return sorted(i for i, words in found if "--rank" in words and "mpirun" not in " ".join(words))


@pytest.mark.parametrize(("count", "threads"), [(1, 2), (4, 1)])
def test_any_number_of_ranks_gives_bitwise_identical_results(encoded, alone, count, threads):
    encoded.set_params(**MANY)
    encoded.environment["OMP_NUM_THREADS"] = str(threads)
    process = train(encoded, f"mpirun -n {count}")
    assert f"on {count} ranks\n" in process.stdout
    assert process.stdout.count("step 25: ") == 1
    assert process.stderr == ""
    assert results(encoded) == results(alone)
    client, (run,) = mlflow_runs(encoded)
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss/train")] == list(
        range(1, STEPS + 1)
    )
    assert run.info.status == "FINISHED"
    other_client, (other,) = mlflow_runs(alone)
    assert samples_by_step(client, run) == samples_by_step(other_client, other)


def test_dvc_repro_on_two_ranks_gives_bitwise_identical_results(finished):
    """So DVC does not rerun the stages that use them."""
    before = results(finished)
    finished.set_params(ranks={"launcher": "mpirun -n 2"})
    for name in RESULTS:
        (finished.path / "data" / name).unlink()
    assert "on 2 ranks" in finished.run("dvc", "repro", "--force", "--single-item", "train").stdout
    assert results(finished) == before
    assert "Data and pipelines are up to date." in finished.run("dvc", "repro").stdout


@pytest.mark.parametrize(
    ("what", "message"),
    [("killed", "a rank died or `mpirun -n 2`"), ("stopped", "has not answered rank")],
)
def test_a_rank_that_dies_or_hangs_ends_all_and_the_next_run_resumes(encoded, alone, what, message):
    encoded.set_params(**(MANY if what == "killed" else ENDLESS))
    encoded.set_params(ranks={"launcher": "mpirun -n 2"})
    process = encoded.start("python", "-m", "pipeline.train")
    while "step 25:" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    os.kill(ranks_of(encoded)[1], signal.SIGKILL if what == "killed" else signal.SIGSTOP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not processes(encoded.path)
    assert delivered_runs(encoded)[0].info.status == "KILLED"
    if what == "stopped":
        return
    out = train(encoded, "mpirun -n 4").stdout
    assert "resuming from data/checkpoints/" in out
    assert results(encoded) == results(alone)
    client, (run,) = mlflow_runs(encoded)
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss/train")] == list(
        range(1, STEPS + 1)
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_rank_that_hangs_while_connecting_or_disconnecting_ends_all(encoded, when):
    """With a shorter timeout."""
    communicator = encoded.path / "pipeline/training/communicator.py"
    program = encoded.path / "pipeline/train.py"
    text = communicator.read_text()
    assert "CONNECT_TIMEOUT = 60" in text
    communicator.write_text(text.replace("CONNECT_TIMEOUT = 60", "CONNECT_TIMEOUT = 5"))
    hang = "os.environ['PMI_RANK'] == '1' and time.sleep(1000)"
    if when == "before":
        (encoded.path / "apart").write_text(
            '#!/bin/sh\n[ "$PMI_RANK" = 0 ] || exec sleep 1000\nexec "$@"\n'
        )
    else:
        program.write_text(
            program.read_text().replace(
                "communicator.disconnect()", f"import os, time; {hang}; communicator.disconnect()"
            )
        )
        (encoded.path / "apart").write_text('exec "$@"\n')
    err = train(encoded, "mpirun -n 2 sh ./apart", code=1).stderr
    assert err.startswith("error: a rank died or `mpirun -n 2 sh ./apart` failed with exit code ")
    assert err.count("\n") == 1
    assert not processes(encoded.path)
    assert bool(list(encoded.path.glob("data/checkpoints/*.npz"))) == (when == "after")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_rank_is_left_when_the_launching_process_is_stopped(encoded, how):
    # ranks keep all cores busy, so wait for the lock less long; test_resume.py waits ten seconds
    texts = {path: path.read_text() for path in encoded.path.glob("pipeline/**/*.py")}
    (file,) = [path for path, text in texts.items() if "acquire(timeout=10)" in text]
    file.write_text(texts[file].replace("acquire(timeout=10)", "acquire(timeout=0.1)"))
    encoded.set_params(**ENDLESS)
    encoded.set_params(ranks={"launcher": "mpirun -n 2"})
    process = encoded.start("python", "-m", "pipeline.train")
    while "step 25:" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    if how == signal.SIGINT:
        # a second training run does not disturb the first, nor its MLflow run
        assert "error: another training run is active" in encoded.stage("train", code=1).stderr
        assert delivered_runs(encoded)[0].info.status == "RUNNING"
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert delivered_runs(encoded)[0].info.status == "KILLED"
    expected = (-9, "") if how == signal.SIGKILL else (130, "interrupted\n")
    assert (process.returncode, err) == expected
    until = time.monotonic() + 30
    while processes(encoded.path):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_divergence_is_reported_once(encoded):
    encoded.set_params(**MANY)
    encoded.set_params(train={"learning_rate": 1e30, "warmup_steps": 0})
    err = train(encoded, "mpirun -n 2", code=1).stderr
    assert err.startswith(
        "error: training diverged at step 2 (loss nan, gradient norm nan): lower the learning rate"
    )
    assert err.count("\n") == 1
    assert mlflow_runs(encoded)[1][0].info.status == "FAILED"
    assert not processes(encoded.path)


def test_a_launcher_that_fails_is_a_one_line_error(encoded):
    encoded.set_params(train={"shards": 4})
    wrong = {
        "mpirun -n 3": "ranks.launcher started 3 ranks, but with train.shards (4) their number"
        " must be one of 1, 2, 4",
        "mpirun '": """ranks.launcher ("mpirun '") must be a shell command: No closing quotation""",
        "no-such-launcher -n 2": "ranks.launcher: command not found: no-such-launcher",
        "env false": "a rank died or `env false` failed with exit code 1; run again to resume from"
        " the last checkpoint, if there is one",
    }
    for launcher, message in wrong.items():
        assert train(encoded, launcher, code=1).stderr == f"error: {message}\n"
    other = shutil.copytree(encoded.path, encoded.path / "other")
    Checkout(other).set_params(train={"seed": 2}, ranks={"launcher": ""})
    (encoded.path / "apart").write_text('#!/bin/sh\n[ "$PMI_RANK" = 0 ] || cd other\nexec "$@"\n')
    err = train(encoded, "mpirun -n 2 sh ./apart", code=1).stderr
    assert "must have the same params, corpus, code and NumPy version" in err
    assert err.count("\n") == 1
    # as Open MPI's launcher says to the ranks that it starts
    encoded.environment["OMPI_COMM_WORLD_SIZE"] = "2"
    message = "ranks.launcher and mpi4py must use the same MPI implementation"
    assert train(encoded, "env", code=1).stderr == f"error: {message}\n"
    del encoded.environment["OMPI_COMM_WORLD_SIZE"]
    (encoded.path / "mpi4py").mkdir()
    (encoded.path / "mpi4py/__init__.py").write_text("raise ImportError('it is not installed')")
    message = "ranks.launcher requires mpi4py and an MPI library (it is not installed); run"
    message += " `pip install -e .[mpi]`"
    assert train(encoded, "mpirun -n 2", code=1).stderr == f"error: {message}\n"
    assert not list(encoded.path.glob("data/*.tmp"))


def ip(*command):
    subprocess.run(["ip", *command], check=True, capture_output=True, text=True)


class Hosts:
    """Machines of our own: network namespaces on one switch, each with its address, its name and an
    SSH server.
    """

    def __init__(self, folder, count):
        self.folder = folder
        self.names = [f"bare{os.getpid() % 10_000}h{i}" for i in range(1, count + 1)]
        self.switch = f"bare{os.getpid() % 10_000}sw"
        self.addresses = [f"10.77.0.{i}" for i in range(1, count + 1)]

    def __enter__(self):
        self.stack = ExitStack()
        with ExitStack() as stack:
            for name in [self.switch, *self.names]:
                ip("netns", "add", name)
                stack.callback(ip, "netns", "del", name)
            ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
            ip("-n", self.switch, "link", "set", "bridge", "up")
            self.key("user")
            shutil.copy(self.folder / "user.pub", self.folder / "authorized_keys")
            known = ""
            for i, (name, address) in enumerate(zip(self.names, self.addresses)):
                peer = f"peer name port{i} netns {self.switch}"
                ip(*f"link add lan netns {name} type veth {peer}".split())
                ip("-n", name, "addr", "add", f"{address}/24", "dev", "lan")
                for where, link in ((name, "lan"), (name, "lo"), (self.switch, f"port{i}")):
                    ip("-n", where, "link", "set", link, "up")
                ip("-n", self.switch, "link", "set", f"port{i}", "master", "bridge")
                known += f"{address} {self.key(name)}"
            (self.folder / "known_hosts").write_text(known)
            options = f"-i {self.folder}/user -o UserKnownHostsFile={self.folder}/known_hosts"
            options += " -o BatchMode=yes"
            (self.folder / "rsh").write_text(f'#!/bin/sh\nexec ssh {options} "$@"\n')
            (self.folder / "rsh").chmod(0o755)
            for name in self.names:
                stack.enter_context(self.sshd(name))
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        for name in self.names:  # whatever still runs there
            pids = subprocess.check_output(["ip", "netns", "pids", name], text=True)
            for process in map(psutil.Process, map(int, pids.split())):
                if "-D" not in process.cmdline():  # but the servers, which end below
                    process.kill()
        self.stack.close()

    def key(self, name):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name], check=True
        )
        return (self.folder / f"{name}.pub").read_text()

    def on(self, name):
        """What runs a command on a host."""
        there = ["ip", "netns", "exec", name, "unshare", "--uts"]
        return [*there, "sh", "-c", f'hostname {name}; exec "$@"', "sh"]

    def sshd(self, name):
        keys = f"HostKey {self.folder}/{name}", f"AuthorizedKeysFile {self.folder}/authorized_keys"
        lines = *keys, "PidFile none", "UsePAM no", "StrictModes no", "PasswordAuthentication no"
        settings = self.folder / f"{name}.conf"
        settings.write_text("\n".join([*lines, "Port 22\n"]))
        Path("/run/sshd").mkdir(exist_ok=True)
        command = [*self.on(name), SSHD, "-D", "-e", "-f", settings]
        log = self.folder / f"{name}.log"
        return servers.running(command, lambda: "listening" in log.read_text(), log)

    def cut_off(self, number):
        ip("-n", self.switch, "link", "set", f"port{number}", "down")


def namespaces_work():
    probe = f"bare{os.getpid()}"
    commands = [["ip", "netns", what, probe] for what in ("add", "del")]
    return bool(shutil.which("ip")) and all(
        subprocess.run(one, capture_output=True).returncode == 0 for one in commands
    )


@pytest.fixture
def hosts(tmp_path):
    """Three hosts, where the machine allows them."""
    if not namespaces_work() or not Path(SSHD).exists():
        pytest.skip(
            "without hosts of its own: they need root on a Linux that allows network namespaces,"
            " and `apt-get install iproute2 openssh-client openssh-server`"
        )
    folder = tmp_path / "hosts"
    folder.mkdir()
    with Hosts(folder, 3) as hosts:
        yield hosts


def test_three_hosts_and_one_is_cut_off(encoded, alone, hosts, tmp_path):
    """By SSH and TCP, four ranks on three hosts; then, without the third, training resumes and
    ends with the same bytes.
    """
    encoded.set_params(**ENDLESS)
    hostfile = tmp_path / "hosts.txt"
    counts = zip(hosts.addresses, (2, 1, 1))
    hostfile.write_text("".join(f"{address}:{count}\n" for address, count in counts))
    by_ssh = (
        f" -launcher-exec {hosts.folder}/rsh -iface lan -genv FI_PROVIDER tcp -genv UCX_TLS tcp"
    )
    encoded.set_params(ranks={"launcher": f"mpirun -n 4 --hostfile {hostfile}{by_ssh}"})
    on_first = hosts.on(hosts.names[0])
    process = encoded.start(*on_first, sys.executable, "-m", "pipeline.train")
    while "step 25:" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    begun = time.monotonic()
    hosts.cut_off(2)
    _, err = process.communicate(timeout=120)
    print(f"ended {time.monotonic() - begun:.1f} s after it was cut off: {err}")
    assert process.returncode == 1
    assert "has not answered rank" in err
    assert err.count("\n") == 1

    until = time.monotonic() + 30
    while ranks_of(encoded):  # the one that was cut off ends itself
        assert time.monotonic() < until
        time.sleep(0.1)

    encoded.set_params(**MANY)  # its own training, as that of `alone`
    hostfile.write_text("\n".join(f"{address}:1" for address in hosts.addresses[:2]) + "\n")
    encoded.set_params(ranks={"launcher": f"mpirun -n 2 --hostfile {hostfile}{by_ssh}"})
    assert "on 2 ranks" in encoded.run(*on_first, sys.executable, "-m", "pipeline.train").stdout
    assert results(encoded) == results(alone)
