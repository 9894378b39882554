"""Checkouts to run commands in, as a user would have them.

Modules that only a few tests need are imported locally, so that the tests of baregpt require only
NumPy and pytest.
"""

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = {  # trains in a second or two
    "model": {"block_size": 32, "d_model": 32, "n_heads": 2, "n_layers": 2},
    "train": {
        "steps": 20,
        "batch_size": 4,
        "shards": 2,
        "warmup_steps": 5,
        "evaluation_interval": 10,
    },
    "sample": {"count": 2, "length": 80},
    "plot_attention": {"prompt": "KING:\nWhat news?"},
}

CHROME_ON_MACOS = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"

# background jobs ignore SIGINT, nohup ignores SIGHUP, and child processes inherit this
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Checkout:
    """A folder with a copy of this project in it."""

    def __init__(self, path):
        self.path = path
        # what the tests themselves were started with
        ours = ("MLFLOW_", "PYTHONUN", "MAKE", "MFLAGS")
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(ours)
        }
        self.environment["OMP_NUM_THREADS"] = "1"  # since several tests run at once
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def start(self, *command, **options):
        return subprocess.Popen(
            command,
            cwd=self.path,
            env=self.environment,
            text=True,
            stdout=-1,
            stderr=-1,
            stdin=subprocess.DEVNULL,
            **options,
        )

    def run(self, *command, code=0, timeout=300):
        """Run a command in the checkout, expecting this exit code; return what it printed."""
        process = self.start(*command)
        out, err = process.communicate(timeout=timeout)
        assert process.returncode == code, (
            f"{command} ended with {process.returncode}\n{out}\n{err}"
        )
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def stage(self, name, code=0):
        return self.run("python", "-m", f"pipeline.{name}", code=code)

    def set_params(self, **sections):
        """Change values in params.yaml: set_params(train={"steps": 5})."""
        import yaml

        file = self.path / "params.yaml"
        params = yaml.safe_load(file.read_text())
        for section, values in sections.items():
            params[section] |= values
        file.write_text(yaml.safe_dump(params))


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist, it is unknown
def pytest_xdist_auto_num_workers():
    return (os.cpu_count() or 1) + 1  # since many tests wait


def pytest_collection_modifyitems(items):
    """Put files with long tests first, so that no worker is left with a long test at the end."""
    long = (
        "bad_input",
        "finetune",
        "make",
        "notebook",
        "pipeline",
        "ranks",
        "recorded",
        "resume",
        "serving",
        "sharing",
        "tracking",
        "ui",
        "windows",
    )
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in long)


def skipped(config):
    """For each reason, the files of the tests that were skipped."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    files = defaultdict(list)
    for report in reporter.stats.get("skipped", ()) if reporter else ():
        _, _, reason = report.longrepr
        files[reason.removeprefix("Skipped: ")].append(Path(report.fspath).name)
    return files


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """In CI, a skipped test is a failure."""
    if os.environ.get("CI") == "true" and skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """The last line says what was skipped, and what it requires."""
    if reasons := skipped(config):
        told = [
            f"{len(files)} ({', '.join(sorted(set(files)))}) {reason}"
            for reason, files in reasons.items()
        ]
        count = sum(map(len, reasons.values()))
        print(f"{count} {'test was' if count == 1 else 'tests were'} skipped: {'; '.join(told)}")


def made_once(factory, name, make):
    """Return a checkout that `make(checkout)` makes in one of the test processes; the others wait
    for it.
    """
    from filelock import FileLock

    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    made = shared / f"{name}.made"
    with FileLock(shared / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(shared / name, ignore_errors=True)  # left by a failed attempt
            make(Checkout(shared / name))
            made.touch()
    return Checkout(shared / name)


@pytest.fixture(scope="session")
def small_checkout(tmp_path_factory):
    """A committed checkout of the tracked and not-ignored files, with params for a small model.
    Not to be changed.
    """

    def make(checkout):
        path = checkout.path
        listed = subprocess.check_output(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True
        )
        for name in listed.splitlines():
            if (ROOT / name).exists():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, path / name)
        for name in ("dvc.lock", "data/metrics.json"):  # of the default model
            (path / name).unlink(missing_ok=True)
        plays = path / "data/plays.txt"
        plays.write_text(plays.read_text()[:100_000])  # scored in a second
        checkout.set_params(**SMALL)
        # otherwise, each start of a stage does it anew
        checkout.run("python", "-m", "compileall", "-q", "baregpt", "pipeline")
        checkout.run("git", "init", "-q")
        for name in ("user.name", "user.email"):  # as docs/experiments.md says
            checkout.run("git", "config", name, "test@example.org")
        checkout.run("git", "add", "-A")
        checkout.run("git", "commit", "-qm", "A small model")

    return made_once(tmp_path_factory, "small", make)


@pytest.fixture(scope="session")
def encoded_checkout(small_checkout, tmp_path_factory):
    """The small checkout after `prepare` and `vocab`. Not to be changed."""

    def make(checkout):
        shutil.copytree(small_checkout.path, checkout.path)
        checkout.stage("prepare")
        checkout.stage("vocab")
        # a new store takes as long as a small training: once is enough
        address = "sqlite:///mlflow.db"
        new_store = f"import mlflow; mlflow.MlflowClient({address!r}).search_experiments()"
        checkout.run("python", "-c", new_store)

    return made_once(tmp_path_factory, "encoded", make)


@pytest.fixture(scope="session")
def finished_checkout(small_checkout, tmp_path_factory):
    """The small checkout after `dvc repro`. Not to be changed."""

    def make(checkout):
        shutil.copytree(small_checkout.path, checkout.path)
        (checkout.path / "output.txt").write_text(checkout.run("dvc", "repro").stdout)

    return made_once(tmp_path_factory, "finished", make)


def commands(page, heading):
    """The blocks of commands that a page of docs/ gives under a heading, as written."""
    text = (ROOT / "docs" / page).read_text() + "\n## "
    (section,) = re.findall(rf"^## {heading}\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    return re.findall(r"^```bash\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


def mlflow_runs(checkout):
    """Return a client of the checkout's own MLflow store, and its runs, the latest first."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{checkout.path}/mlflow.db")
    return client, client.search_runs(["1"])  # our experiment, whatever its name


def samples_by_step(client, run):
    """Return the lines of text that a run generated, one per evaluation."""
    path = client.download_artifacts(run.info.run_id, "samples_by_step.txt")
    return Path(path).read_text().splitlines()


def delivered_runs(checkout):
    """Return the runs after what is in the outbox was delivered: an interrupted run waits for that
    only a few seconds.
    """
    checkout.stage("deliver")
    return mlflow_runs(checkout)[1]


def read_until(process, line):
    """Read the output of a process up to a line."""
    while line not in (printed := process.stdout.readline()):
        assert printed or process.poll() is None, process.stderr.read()


def processes(path):
    """Return process id -> arguments of all processes that work in a folder."""
    import psutil

    found = psutil.process_iter(["cwd", "cmdline"])  # None: it has just ended, or is not ours
    return {p.pid: p.info["cmdline"] for p in found if p.info["cwd"] == str(path)}


def copy_of(checkout, path):
    """A copy of a checkout, there. Its MLflow store, which knows absolute paths, gets those of the
    copy.
    """
    copy = Checkout(shutil.copytree(checkout.path, path))
    if (copy.path / "mlflow.db").exists():
        with contextlib.closing(sqlite3.connect(copy.path / "mlflow.db")) as store, store:
            for column in (
                "experiments.artifact_location",
                "runs.artifact_uri",
                "logged_models.artifact_location",
                "model_versions.source",
                "model_versions.storage_location",
            ):
                table, name = column.split(".")
                paths = str(checkout.path), str(copy.path)
                store.execute(f"UPDATE {table} SET {name} = replace({name}, ?, ?)", paths)
    return copy


def lend_environment(checkout):
    """Have make use this environment instead of setting one up."""
    (checkout.path / ".venv").symlink_to(sys.prefix)
    for layer in (".created", ".checked", ".installed", ".tests"):
        (checkout.path / ".venv" / layer).touch()


@pytest.fixture
def fresh(small_checkout, tmp_path):
    """A copy of the small checkout, before anything was run."""
    return copy_of(small_checkout, tmp_path / "checkout")


@pytest.fixture
def encoded(encoded_checkout, tmp_path):
    """A copy of the small checkout after `prepare` and `vocab`."""
    return copy_of(encoded_checkout, tmp_path / "checkout")


@pytest.fixture
def finished(finished_checkout, tmp_path):
    """A copy of the small checkout after `dvc repro`."""
    return copy_of(finished_checkout, tmp_path / "checkout")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", CHROME_ON_MACOS)
    chromium = next(filter(None, map(shutil.which, names)), None)
    if not chromium:
        pytest.skip("without Chromium, which `apt-get install chromium` brings")
    quiet = [
        "--no-sandbox",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-component-update",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=quiet)
        yield browser
        browser.close()
