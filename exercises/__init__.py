"""Thirteen exercises: write the core functions of a GPT and check them in seconds."""
