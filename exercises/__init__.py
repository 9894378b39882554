"""Thirteen exercises: write the backward pass of a GPT yourself, checked in seconds."""
