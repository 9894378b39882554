"""MLflow's store: its address, and connecting to it.

MLflow is imported in functions, because the import takes seconds and errors in the input are
reported before it.
"""

import contextlib
import logging
import os
import re
import sqlite3

from filelock import FileLock

from pipeline.common.paths import CHECKOUT, DATA

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # or a machine without git gets ten lines
EXPERIMENT = "baregpt"
STORE, ARTIFACTS = CHECKOUT / "mlflow.db", CHECKOUT / "mlruns"
# one process at a time writes to the store; Timeout is an OSError
LOCK = FileLock(CHECKOUT / DATA / "undelivered/lock", timeout=60)
PATH_COLUMNS = [  # of MLflow's tables
    "experiments.artifact_location",
    "runs.artifact_uri",
    "logged_models.artifact_location",
    "model_versions.source",
    "model_versions.storage_location",
]


def store_address():
    """Return MLFLOW_TRACKING_URI, or else the address of the checkout's own SQLite store. Relative
    paths are relative to the checkout, also in a temporary copy of it.
    """
    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{STORE}"
    kind, colon, path = address.partition("sqlite:///")
    return f"sqlite:///{CHECKOUT / path}" if colon and not kind else address


def connect():
    """Return an MLflow client and our experiment; OSError if the store cannot be reached."""
    import mlflow
    import mlflow.store.db.utils as database

    for name in ("alembic", "mlflow", "urllib3", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # we report errors ourselves
    # Fail in seconds, not minutes, if a server is down; a request sent twice makes two runs.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    database.MAX_RETRY_COUNT = 3  # half a second instead of a hundred
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it may contain a password
    address = store_address()
    try:
        if address == f"sqlite:///{STORE}":
            create_store()
            relocate_artifacts()
        mlflow.set_tracking_uri(address)
        client = mlflow.MlflowClient()
        if client.get_experiment_by_name(EXPERIMENT) is None:
            on_a_server = address.startswith(("http://", "https://"))
            with contextlib.suppress(mlflow.MlflowException):  # another process has created it
                client.create_experiment(EXPERIMENT, None if on_a_server else ARTIFACTS.as_uri())
        return client, mlflow.set_experiment(EXPERIMENT)
    except Exception as error:  # of any type: each kind of store has its own
        reason = without_secrets(error)
        if "migrate-filestore" in reason:
            reason = (
                "a folder of files is not supported; convert it with `mlflow migrate-filestore`"
            )
        raise OSError(
            f"MLflow cannot reach its store, set by MLFLOW_TRACKING_URI ({reason})"
        ) from None


def create_store():
    """Create MLflow's SQLite store if it does not exist, atomically: MLflow cannot use an
    incomplete one.
    """
    import mlflow

    with LOCK:
        if not STORE.exists():
            temporary = STORE.with_name(f"{STORE.name}.{os.getpid()}.tmp")
            mlflow.MlflowClient(f"sqlite:///{temporary}").search_experiments()
            os.replace(temporary, STORE)


def relocate_artifacts():
    """Update the artifact paths in our store if the checkout was moved or copied: MLflow stores
    absolute ones (its issue 3144), so those of a copy would lead to the original.
    """
    query = "SELECT artifact_location FROM experiments WHERE name = ?"
    with contextlib.closing(sqlite3.connect(STORE, timeout=60)) as store, store:
        (location,) = store.execute(query, [EXPERIMENT]).fetchone() or [ARTIFACTS.as_uri()]
        previous = location.removesuffix(f"/{ARTIFACTS.name}")
        if previous in (location, CHECKOUT.as_uri()):
            return
        for column in PATH_COLUMNS:
            table, name = column.split(".")
            change = f"UPDATE {table} SET {name} = ?1 || substr({name}, length(?2) + 1)"
            where = f"WHERE substr({name}, 1, length(?2) + 1) = ?2 || '/'"
            store.execute(f"{change} {where}", [CHECKOUT.as_uri(), previous])


def without_secrets(error):
    """Return an error as one line, without passwords and the values of secret variables."""
    text = str(error)
    secret = "PASS|TOKEN|SECRET|KEY|CREDENTIAL|AUTH|TRACKING_URI"
    for name, value in os.environ.items():
        if re.search(secret, name, re.IGNORECASE) and len(value) > 3:
            text = text.replace(value, f"${name}")
    return re.sub(r"[^\s'\"/]*@", "", " ".join(text.split()))[:400]
