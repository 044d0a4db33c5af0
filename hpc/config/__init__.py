"""Configuration from models.yaml, the site file, variables and flags, resolved once."""

from hpc.config.fields import check_name
from hpc.config.load import (
    Config,
    Site,
    changed,
    config_folder,
    default_image,
    find_models,
    load,
    safe,
    searched,
    site_path,
)
from hpc.config.static_backends import Backend
from hpc.config.units import format_time, parse_memory, parse_seconds, parse_time

__all__ = [
    "Backend",
    "Config",
    "Site",
    "changed",
    "check_name",
    "config_folder",
    "default_image",
    "find_models",
    "format_time",
    "load",
    "parse_memory",
    "parse_seconds",
    "parse_time",
    "safe",
    "searched",
    "site_path",
]
