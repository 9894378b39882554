"""Used by `pipeline.train`: checkpoints, loss curves, and training on several MPI ranks."""
