"""Shared by all commands: parameters, file paths, corpora, and the stage runner."""
