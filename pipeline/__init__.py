"""The DVC stages around `baregpt`, one module each, with params.yaml and MLflow in one place each."""
