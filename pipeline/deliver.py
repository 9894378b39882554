"""Bring to MLflow what could not be delivered when it was made."""

from pipeline.common.stage import run
from pipeline.tracking import outbox


def main():
    count = outbox.deliver()
    print(f"delivered {count} records" if count else "nothing waits to be delivered")


if __name__ == "__main__":
    run(main)
