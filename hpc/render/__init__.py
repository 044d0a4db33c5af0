"""Rendered text from Jinja2 templates: batch scripts and container definitions."""

from hpc.render.definition import BUILD_FOLDER, DEFINITIONS, WHEEL_FOLDER, definition
from hpc.render.sbatch import SbatchJob, directive, sbatch, script

__all__ = [
    "BUILD_FOLDER",
    "DEFINITIONS",
    "WHEEL_FOLDER",
    "SbatchJob",
    "definition",
    "directive",
    "sbatch",
    "script",
]
