"""Serve language models from a Slurm cluster as an OpenAI-compatible endpoint."""

__version__ = "0.1.0"
