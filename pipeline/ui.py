"""Start the MLflow UI for the runs of this checkout."""

import argparse
import os
import socket

from pipeline.common.stage import run
from pipeline.tracking import store

HOST = "127.0.0.1"


def check_port(port):
    """ValueError if the port is not free."""
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
    page = "#/experiments/1/runs?workflowType=machine_learning"
    print(f"MLflow UI: http://{HOST}:{port}/{page} (Ctrl-C stops it)", flush=True)
    store.connect()  # updates the paths of artifacts if the checkout was moved
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    from mlflow.cli import cli

    address = f"sqlite:///{store.STORE}"
    cli(["ui", "--backend-store-uri", address, "--port", str(port), "--workers", "1"])


if __name__ == "__main__":
    run(main)
