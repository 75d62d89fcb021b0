"""From YAML files and ``--set`` to checked constructor arguments, each with its source."""

from rlzoo.config.load import load_yaml, parse_value
from rlzoo.config.locate import config_files
from rlzoo.config.resolve import ResolvedConfig, Value, dump, known_presets, resolve
from rlzoo.config.schema import RunSettings

__all__ = [
    "ResolvedConfig",
    "RunSettings",
    "Value",
    "config_files",
    "dump",
    "known_presets",
    "load_yaml",
    "parse_value",
    "resolve",
]
