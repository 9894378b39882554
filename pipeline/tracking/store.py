"""MLflow's store: where it is, and how it is reached, made, and moved.

MLflow is imported where it is needed, since that takes seconds, and what is wrong with the input is
told at once.
"""

import contextlib
import logging
import os
import re
import sqlite3
from pathlib import Path

from filelock import FileLock

from pipeline.common.stage import DATA

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read while mlflow is imported
EXPERIMENT = "baregpt"
HOME = Path(os.environ.get("DVC_ROOT", ".")).resolve()  # not the copy where DVC runs an experiment
STORE, ARTIFACTS = HOME / "mlflow.db", HOME / "mlruns"
# one process at a time changes the store; Timeout is an OSError
LOCK = FileLock(HOME / DATA / "undelivered/lock", timeout=60)
HOLD_PATHS = [  # columns of MLflow's tables
    "experiments.artifact_location",
    "runs.artifact_uri",
    "logged_models.artifact_location",
    "model_versions.source",
    "model_versions.storage_location",
]


def store_address():
    """MLFLOW_TRACKING_URI, or else a SQLite store in this checkout. A relative path means this
    checkout too, wherever DVC runs a copy of it.
    """
    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{STORE}"
    kind, colon, path = address.partition("sqlite:///")
    return f"sqlite:///{HOME / path}" if colon and not kind else address


def connect():
    """A client of the store, and our experiment in it; OSError, in one line, if out of reach."""
    import mlflow
    import mlflow.store.db.utils as database

    for name in ("alembic", "mlflow", "urllib3", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters of it, we say in one line
    # Seconds, not minutes, until we know that it is down; and what is sent twice makes two runs.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    database.MAX_RETRY_COUNT = 3  # which take half a second; its own 10 take a hundred
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it may hold a password
    address = store_address()
    try:
        if address == f"sqlite:///{STORE}":
            make_store()
            follow_the_checkout()
        mlflow.set_tracking_uri(address)
        client = mlflow.MlflowClient()
        if client.get_experiment_by_name(EXPERIMENT) is None:
            on_a_server = address.startswith(("http://", "https://"))
            with contextlib.suppress(mlflow.MlflowException):  # another has just made it
                client.create_experiment(EXPERIMENT, None if on_a_server else ARTIFACTS.as_uri())
        return client, mlflow.set_experiment(EXPERIMENT)
    except Exception as error:  # of any kind: each store has its own
        reason = without_secrets(error)
        if "migrate-filestore" in reason:
            reason = "it takes no folder: `mlflow migrate-filestore` makes a database of one"
        set_by = "set by MLFLOW_TRACKING_URI"
        raise OSError(f"MLflow cannot reach its store, {set_by} ({reason})") from None


def make_store():
    """Make MLflow's SQLite store, unless it is there: whole or not at all, for MLflow cannot use
    half a one.
    """
    import mlflow

    with LOCK:
        if not STORE.exists():
            temporary = STORE.with_name(f"{STORE.name}.{os.getpid()}.tmp")
            mlflow.MlflowClient(f"sqlite:///{temporary}").search_experiments()
            os.replace(temporary, STORE)


def follow_the_checkout():
    """Put the paths in our store right if the checkout was moved or copied since: MLflow's are
    absolute (its issue 3144), and those of a copy would lead to the original.
    """
    ask = "SELECT artifact_location FROM experiments WHERE name = ?"
    with contextlib.closing(sqlite3.connect(STORE, timeout=60)) as store, store:
        (location,) = store.execute(ask, [EXPERIMENT]).fetchone() or [ARTIFACTS.as_uri()]
        former = location.removesuffix(f"/{ARTIFACTS.name}")
        if former in (location, HOME.as_uri()):
            return
        for column in HOLD_PATHS:
            table, name = column.split(".")
            change = f"UPDATE {table} SET {name} = ?1 || substr({name}, length(?2) + 1)"
            where = f"WHERE substr({name}, 1, length(?2) + 1) = ?2 || '/'"
            store.execute(f"{change} {where}", [HOME.as_uri(), former])


def without_secrets(error):
    """What an error says, in one line, without what only its owner should know."""
    text = str(error)
    secret = "PASS|TOKEN|SECRET|KEY|CREDENTIAL|AUTH|TRACKING_URI"
    for name, value in os.environ.items():
        if re.search(secret, name, re.IGNORECASE) and len(value) > 3:
            text = text.replace(value, f"${name}")
    return re.sub(r"[^\s'\"/]*@", "", " ".join(text.split()))[:400]
