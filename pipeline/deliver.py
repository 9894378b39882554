"""Deliver the records in the outbox, data/undelivered, to MLflow."""

from pipeline.common.stage import run
from pipeline.tracking import outbox


def main():
    count = outbox.deliver()
    print(f"delivered {count} records" if count else "the outbox is empty")


if __name__ == "__main__":
    run(main)
