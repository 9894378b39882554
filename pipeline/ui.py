"""Start the MLflow UI for the runs in the MLflow store of this checkout, mlflow.db."""

import argparse
import os
import socket

from pipeline.common.stage import run
from pipeline.tracking import store

HOST = "127.0.0.1"


def check_port(port):
    """Raise ValueError if the port is not free."""
    try:
        with socket.create_server((HOST, port)):
            pass
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"port {port} cannot be used ({error}); choose another, for example"
            " `make ui UI_PORT=5001` or `python -m pipeline.ui --port 5001`"
        ) from None


def main():
    parser = argparse.ArgumentParser(prog="python -m pipeline.ui", description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help="default: %(default)s")
    port = parser.parse_args().port
    check_port(port)
    # also updates the paths of artifacts if the checkout was moved
    _, experiment_id = store.connect(store.LOCAL_URI)
    page = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    print(f"MLflow UI: http://{HOST}:{port}/{page} (Ctrl-C stops it)", flush=True)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    from mlflow.cli import cli

    cli(["ui", "--backend-store-uri", store.LOCAL_URI, "--port", str(port), "--workers", "1"])


if __name__ == "__main__":
    run(main)
