"""Logging to MLflow: run records, the outbox in which they wait, and the client that sends them."""
