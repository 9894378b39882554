"""Everything that talks to MLflow.

Training must not depend on a server. So what MLflow is to know of a run is a record of our own first, which is
delivered when MLflow can be reached, and waits on disk until then. Delivering a record again changes nothing: its run
is found by its tags, and of each metric only the steps that are not there yet are sent.

MLflow is imported where it is needed, since that takes seconds, and what is wrong with the input is told at once.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from baregpt.files import atomic_write
from baregpt.weights import load_weights
from pipeline.stage import DATA, WEIGHTS

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read while mlflow is imported
EXPERIMENT = "baregpt"
HOME = Path(os.path.relpath(os.environ.get("DVC_ROOT", ".")))  # not the copy in which DVC runs a queued experiment
UNDELIVERED = HOME / DATA / "undelivered"
LOCK = FileLock(UNDELIVERED / "lock", timeout=60)  # for what only one process may do at a time; Timeout is an OSError
KEEPING = FileLock(UNDELIVERED / "keeping.lock", timeout=60)  # for what changes there: never held while MLflow is asked
PATIENCE = 20  # seconds that a delivery may take before training stops waiting for deliveries
AT_ONCE = 1000  # metrics that MLflow takes in one call
RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"  # statuses of a run


def connect():
    """Point MLflow at MLFLOW_TRACKING_URI, or else at a SQLite store in this checkout; return a client
    and our experiment. OSError, in one line, if that cannot be reached."""
    import mlflow
    import mlflow.store.db.utils as database

    for name, level in {"alembic": logging.WARNING, "mlflow": logging.ERROR, "urllib3": logging.ERROR}.items():
        logging.getLogger(name).setLevel(level)  # what matters of it, we say in one line
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # seconds, not minutes, until we know it is down
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # a creation that is sent twice makes two runs
    database.MAX_RETRY_COUNT = 3  # which take half a second; its own 10 take a hundred
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it may hold a password
    ours = not os.environ.get("MLFLOW_TRACKING_URI")
    try:
        if ours:
            make_store(HOME / "mlflow.db")
            mlflow.set_tracking_uri(f"sqlite:///{HOME}/mlflow.db")
        client = mlflow.MlflowClient()
        if client.get_experiment_by_name(EXPERIMENT) is None:
            with contextlib.suppress(mlflow.MlflowException):  # another has just made it
                client.create_experiment(EXPERIMENT, (HOME / "mlruns").resolve().as_uri() if ours else None)
        return client, mlflow.set_experiment(EXPERIMENT)
    except Exception as error:  # of any kind: each store has its own
        reason = without_secrets(error)
        raise OSError(f"MLflow cannot reach its store, set by MLFLOW_TRACKING_URI ({reason})") from None


def make_store(path):
    """Make MLflow's SQLite store, unless it is there: whole or not at all, for MLflow cannot use half a one."""
    import mlflow

    with LOCK:
        if not path.exists():
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            mlflow.MlflowClient(f"sqlite:///{temporary}").search_experiments()
            os.replace(temporary, path)


def without_secrets(error):
    """What an error says, in one line, without what only its owner should know."""
    text = str(error)
    for name, value in os.environ.items():
        if re.search("PASS|TOKEN|SECRET|KEY|CREDENTIAL|AUTH|TRACKING_URI", name, re.IGNORECASE) and len(value) > 3:
            text = text.replace(value, f"${name}")
    return re.sub(r"[^\s'\"/]*@", "", " ".join(text.split()))[:200]


def md5(path):
    """The checksum by which DVC knows a file."""
    return hashlib.md5(Path(path).read_bytes()).hexdigest()


def flat(values, prefix=""):
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {k: v for name, value in values.items() for k, v in flat(value, f"{prefix}.{name}".strip(".")).items()}


def now():
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


@dataclass
class Record:
    """What MLflow is to know of a run, all of it JSON values.

    key: the tag that tells the run from all others. metrics: [name, value, time, step].
    """

    key: str
    tags: dict
    params: dict = field(default_factory=dict)
    metrics: list = field(default_factory=list)
    status: str = RUNNING
    start: int = field(default_factory=now)
    end: int | None = None

    def log(self, step, **values):
        """Note values of a step."""
        self.metrics += [[name, value, now(), step] for name, value in values.items() if value is not None]


def training_record(params, corpus_md5, counts):
    """The record of a training that begins: its params, its corpus, and its parameter counts."""
    from mlflow.tracking.context.registry import resolve_tags

    tags = resolve_tags({"training": uuid.uuid4().hex, "corpus.md5": corpus_md5})  # MLflow's own say the git commit
    if name := os.environ.get("DVC_EXP_NAME"):
        tags["mlflow.runName"] = name
        if sweep := re.fullmatch(r"(.+)-\d+", name):  # how DVC names the experiments that it queues with one command
            tags["sweep"] = f"{sweep[1]}, from {os.environ.get('DVC_EXP_BASELINE_REV', '')[:7]}"
    record = Record("training", tags, {name: str(value) for name, value in flat(params).items()})
    record.log(0, **counts)
    return record


class Delivery:
    """Brings one record to MLflow, as far as it has come, as often as it is asked to."""

    def __init__(self, record):
        self.record, self.run_id = record, None
        self.sent = dict[str, int]()  # metric -> the last step that MLflow has

    def deliver(self, connection, files=()):
        """Send what MLflow does not have yet, and files as artifacts; OSError, in one line, if that fails."""
        from mlflow.entities import Metric, RunTag

        record, (client, experiment) = self.record, connection
        try:
            if self.run_id is None:
                self.run_id = self.find_run(client, experiment.experiment_id)
            metrics = [Metric(*values) for values in record.metrics if values[3] > self.sent.get(values[0], -1)]
            for i in range(0, len(metrics), AT_ONCE):
                client.log_batch(self.run_id, metrics=metrics[i : i + AT_ONCE])
            self.sent |= {metric.key: metric.step for metric in metrics}
            client.log_batch(self.run_id, tags=[RunTag(*tag) for tag in record.tags.items()])
            over = (FINISHED,) if record.status == FINISHED else (FINISHED, FAILED, KILLED)
            if record.end and client.get_run(self.run_id).info.status not in over:
                client.set_terminated(self.run_id, record.status, record.end)
            for file in files:  # the last, since a server may refuse what is too large for it
                client.log_artifact(self.run_id, file)
                if record.key == "training" and file.name == WEIGHTS.name:
                    log_model(client, self.run_id, file)
        except Exception as error:  # of any kind: each store has its own
            raise OSError(f"MLflow does not take a run ({without_secrets(error)})") from None

    def find_run(self, client, experiment_id):
        """The id of the record's run, which is made if need be; and what it has of the metrics."""
        from mlflow.entities import Param

        record = self.record
        its_tag = f"tags.`{record.key}` = '{record.tags[record.key]}'"
        found = client.search_runs([experiment_id], its_tag, max_results=1)
        run = found[0] if found else client.create_run(experiment_id, record.start, record.tags)
        if "sweep" in record.tags and "mlflow.parentRunId" not in run.data.tags:
            parent = parent_of(record.tags["sweep"], client, experiment_id)
            client.set_tag(run.info.run_id, "mlflow.parentRunId", parent)
        for name in run.data.metrics if record.metrics else ():
            self.sent[name] = max(metric.step for metric in client.get_metric_history(run.info.run_id, name))
        client.log_batch(run.info.run_id, params=[Param(*param) for param in record.params.items()])
        if record.status == RUNNING and run.info.status in (FAILED, KILLED):
            client.update_run(run.info.run_id, RUNNING)
        return run.info.run_id

    def keep_up(self):
        """Deliver while training goes on: unless that failed before, and without making a failure of it."""
        if warned:
            return
        begun = time.monotonic()
        try:
            with LOCK:
                self.deliver(connect())
            if (seconds := time.monotonic() - begun) > PATIENCE:
                raise OSError(f"MLflow took {seconds:.0f} seconds to answer")
        except OSError as error:
            warn(error)


def parent_of(sweep, client, experiment_id):
    """The id of the run under which the UI shows the runs of a sweep, made by the first of them."""
    with LOCK:
        found = client.search_runs([experiment_id], f"tags.`sweep.parent` = '{sweep}'", max_results=1)
        if found:
            return found[0].info.run_id
        parent = client.create_run(experiment_id, tags={"sweep.parent": sweep, "mlflow.runName": sweep})
        client.set_terminated(parent.info.run_id)
        return parent.info.run_id


warned = False


def warn(error):
    """Say what a person has to know when MLflow is out of reach: once."""
    global warned
    if not warned:
        keeps = f"what it should know is kept in {UNDELIVERED}"
        later = "the next stage that runs delivers it, or `python -m pipeline.deliver`"
        print(f"warning: {error}: the work goes on, and {keeps}; {later}", file=sys.stderr, flush=True)
    warned = True


def hand_over(record, name, files=()):
    """Bring a record and its files to MLflow, and all that waits; what does not get there is kept on disk."""
    keep(record, name, files)
    deliver_or_warn()


def deliver_or_warn():
    """Bring all that waits to MLflow, or say that it goes on waiting."""
    try:
        deliver_all()
    except OSError as error:
        warn(error)


def keep(record, name, files):
    """Put a record and its files on disk; or if there is no room, bring them to MLflow at once."""
    folder = UNDELIVERED / name
    try:
        with KEEPING:
            (folder / "files").mkdir(parents=True, exist_ok=True)
            for path in files:
                with atomic_write(folder / "files" / path.name) as file:
                    file.write(path.read_bytes())
            with atomic_write(folder / "record.json") as file:  # the last: what has no record was not handed over
                file.write(json.dumps(vars(record)).encode())
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            Delivery(record).deliver(connect(), files)
        except OSError as second:
            print(f"warning: {error}, and {second}: MLflow will not know of this run", file=sys.stderr)


def give_up(values):
    """Have MLflow know of a training that was killed, and will not go on: the record that its checkpoint has."""
    try:
        record = Record(**values)
        name = record.tags["training"]
    except (TypeError, KeyError):  # another version of this project wrote it
        return
    if not (UNDELIVERED / name / "record.json").exists():  # else it has had time to keep a later one
        record.status, record.end = KILLED, now()
        keep(record, name, ())
    deliver_or_warn()


def deliver_all():
    """Bring all that waits to MLflow, the oldest first; return how many records that were. OSError if one is left."""
    waiting, failures, refused = [], [], set()
    with LOCK:
        with KEEPING:
            for folder in UNDELIVERED.glob("*/"):
                try:
                    contents = (folder / "record.json").read_bytes()
                    waiting.append((Record(**json.loads(contents)), contents, folder))
                except FileNotFoundError:  # handing it over was cut short, or clearing it away
                    shutil.rmtree(folder)
                except (ValueError, TypeError):
                    failures.append(OSError(f"{folder} is damaged, and cannot be delivered: delete it"))
        connection = connect() if waiting else None
        for record, contents, folder in sorted(waiting, key=lambda entry: entry[0].start):  # a run before its samples
            if (weights := record.tags.get("weights.md5", folder)) in refused:
                continue
            try:
                Delivery(record).deliver(connection, sorted((folder / "files").glob("*")))
            except OSError as error:
                with contextlib.suppress(OSError):
                    connect()  # a server that refuses what comes may hang up as well
                connection = connect()  # else it is gone, and the rest can wait
                failures.append(error)
                refused.add(weights)
                continue
            with KEEPING:
                if (folder / "record.json").read_bytes() == contents:  # else a later one is there
                    (folder / "record.json").unlink()
                    shutil.rmtree(folder)
    if failures:
        raise failures[0]
    return len(waiting)


def log_model(client, run_id, weights):
    """Add these weights to a run as a model that MLflow can register, load and serve: see served_model.py."""
    import mlflow
    import pandas  # which MLflow brings
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.utils import environment

    # It would go through all packages here, for two seconds, to warn if these versions are not those here.
    environment.warn_dependency_requirement_mismatches = lambda model_requirements: None
    defaults = {"length": 512, "temperature": 0.8, "top_k": 20, "seed": -1}
    types = {int: "long", float: "double"}
    params = ParamSchema([ParamSpec(name, types[type(value)], value) for name, value in defaults.items()])
    _, vocab = load_weights(weights)
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        mlflow.pyfunc.save_model(
            f"{folder}/model",
            loader_module="served_model",
            code_paths=[str(here / "served_model.py"), str(here.with_name("baregpt"))],
            data_path=str(weights),
            signature=ModelSignature(Schema([ColSpec("string", "prompt")]), Schema([ColSpec("string")]), params),
            input_example=(pandas.DataFrame({"prompt": [vocab.characters[0]]}), defaults),
            pip_requirements=[f"{name}=={version(name)}" for name in ("numpy", "threadpoolctl")],
        )
        client.log_artifacts(run_id, f"{folder}/model", "model")


def find_run(weights):
    """The run that made these weights, known by their checksum; or None."""
    client, experiment = connect()
    runs = client.search_runs([experiment.experiment_id], f"tags.`weights.md5` = '{md5(weights)}'", max_results=1)
    return runs[0] if runs else None


def record_of(weights):
    """A record that stands for the run that made these weights; or for a new run, if they came alone."""
    return Record("weights.md5", {"weights.md5": md5(weights)}, status=FINISHED, end=now())


def log_to_run_of(weights, *paths):
    """Add files to the run that made these weights."""
    record = record_of(weights)
    hand_over(record, f"{record.tags[record.key]}-{paths[0].name}", [weights, *paths])
