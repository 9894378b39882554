"""Deliver the records in the outbox, data/undelivered, to MLflow."""

import sys

from pipeline.common.stage import run
from pipeline.tracking.outbox import WORKER_FLAG, deliver, run_worker


def main():
    count = deliver()
    records = "record" if count == 1 else "records"
    print(f"delivered {count} {records}" if count else "no records to deliver")


if __name__ == "__main__":
    if WORKER_FLAG in sys.argv:
        run_worker()
    else:
        run(main, description=__doc__)
