"""MLflow's store: its tracking URI, and connecting to it.

MLflow is imported inside functions,
because importing it takes seconds.
"""

import contextlib
import gc
import logging
import os
import re
import sqlite3
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from filelock import FileLock

from pipeline.common.paths import CHECKOUT, OUTBOX

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
# otherwise, pyarrow reserves 1 GiB, as much as a delivery may use
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
# otherwise, GitPython prints ten lines if git is missing
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
EXPERIMENT, EXPERIMENT_TAG = "baregpt", "baregpt.experiment"  # found by the tag: it may be renamed
STORE, ARTIFACTS = CHECKOUT / "mlflow.db", "mlruns"  # next to the database that stores their paths
LOCAL_URI = f"sqlite:///{STORE}"
LOCK = FileLock(OUTBOX / "lock", timeout=60)  # held while writing to the store
PATHS = [  # tables and columns of MLflow's database
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
]


def tracking_uri():
    """Return MLFLOW_TRACKING_URI, or else that of our own SQLite store."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or LOCAL_URI
    # relative to the checkout, also in a temporary copy of it
    return re.sub("(?<=^sqlite:///).*", lambda path: str(CHECKOUT / path[0]), uri)


def store_name(uri=None):
    """Return a tracking URI, by default `tracking_uri()`, for records: without passwords, query or
    the checkout's path.
    """
    uri = (uri or tracking_uri()).replace(f"{CHECKOUT}{os.sep}", "")
    return re.sub(r"[^\s'\"/]*@|\?.*|/$", "", uri)


def connect(uri=None):
    """Return an MLflow client of a store and the id of our experiment in it. Raises OSError if
    the store cannot be used.

    uri: by default `tracking_uri()`.
    """
    # MLflow's imports create a million objects; garbage collection would take a quarter of the
    # import time
    gc.set_threshold(100_000)
    import mlflow
    import mlflow.store.db.utils as database

    for name in ("alembic", "mlflow", "urllib3", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # we report errors ourselves
    uri = uri or tracking_uri()
    # fail in seconds, not minutes; a request that is sent twice makes two runs
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it may contain a password
    # a pooled connection would go on writing to a database that was deleted
    os.environ["MLFLOW_SQLALCHEMYSTORE_POOLCLASS"] = "NullPool"
    database.MAX_RETRY_COUNT = 3  # half a second instead of a hundred seconds
    try:
        if uri == LOCAL_URI:
            create_store()
            relocate_artifacts()
        client = mlflow.MlflowClient(uri)
        return client, get_or_create_experiment(client, uri)
    except Exception as error:  # any type: each kind of store has its own
        reason = without_secrets(error)
        if "migrate-filestore" in reason:
            reason = "convert this folder of files with `mlflow migrate-filestore`"
        raise OSError(f"MLflow cannot use its store {store_name(uri)} ({reason})") from None


def get_or_create_experiment(client, uri):
    """Return the id of our experiment. Raises ValueError if it was deleted and can be restored."""
    from mlflow.entities import ViewType

    query = f"tags.`{EXPERIMENT_TAG}` = 'true'"
    tagged = client.search_experiments(ViewType.ALL, filter_string=query)
    experiment = tagged[0] if tagged else client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        kind, _, path = uri.partition(":///")
        database = Path(path) if kind == "sqlite" else STORE
        location = None if kind.startswith("http") else (database.parent / ARTIFACTS).as_uri()
        experiment = client.get_experiment(client.create_experiment(EXPERIMENT, location))
    experiment_id = experiment.experiment_id
    if experiment.lifecycle_stage == "deleted":
        raise ValueError(
            f"experiment {experiment.name} was deleted; restore it with"
            f" `mlflow experiments restore --experiment-id {experiment_id}`"
        )
    if not tagged:
        client.set_experiment_tag(experiment_id, EXPERIMENT_TAG, "true")
    return experiment_id


def find_by_tag(key, value, client, experiment_id):
    """Return the run with this tag, or None. `value` must not be user input, because MLflow's
    filters cannot escape quotes.
    """
    found = client.search_runs([experiment_id], f"tags.`{key}` = '{value}'", max_results=1)
    return found[0] if found else None


def create_store():
    """Create MLflow's SQLite store if there is none, atomically: MLflow cannot use an incomplete
    one.
    """
    import mlflow

    with LOCK:
        if STORE.exists() and STORE.stat().st_size:
            return
        temporary = STORE.with_name(f"{STORE.name}.tmp")
        temporary.unlink(missing_ok=True)  # left by a killed process
        mlflow.MlflowClient(f"sqlite:///{temporary}").search_experiments()
        os.replace(temporary, STORE)


def relocate_artifacts():
    """Update the artifact paths in our store that point elsewhere although the files are here,
    because the checkout was moved or copied. MLflow's paths are absolute (mlflow/mlflow#3144).
    """
    here = CHECKOUT / ARTIFACTS
    here.mkdir(exist_ok=True)  # where new runs go
    with contextlib.closing(sqlite3.connect(STORE, timeout=60)) as store, store:
        for table, column in PATHS:
            paths = f"SELECT DISTINCT {column} FROM {table} WHERE {column} LIKE 'file:%/mlruns%'"
            for (uri,) in store.execute(paths).fetchall():
                new = here.as_uri() + uri.rpartition(f"/{ARTIFACTS}")[2]
                if os.path.exists(url2pathname(urlparse(new).path)):
                    store.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, uri))


def without_secrets(error):
    """Return an error as one line, without passwords and the values of secret variables."""
    text = str(error) or type(error).__name__
    secret = "PASS|TOKEN|SECRET|KEY|CREDENTIAL|AUTH|TRACKING_URI"
    for name, value in os.environ.items():
        if re.search(secret, name, re.IGNORECASE) and len(value) > 3:
            text = text.replace(value, f"${name}")
    return re.sub(r"[^\s'\"/]*@", "", " ".join(text.split()))[:400]
