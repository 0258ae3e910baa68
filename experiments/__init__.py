"""Experiments as commands: train, generate, and the figures of the process."""
