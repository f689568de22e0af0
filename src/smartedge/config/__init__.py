"""The settings of a run: read from YAML, checked as a whole, every problem reported at once."""

from smartedge.config.reading import (
    config_of_agreement,
    config_of_edge,
    load_config,
    load_run_config,
    parse_overrides,
)
from smartedge.config.section import Section
from smartedge.config.settings import AUTO, Config, changes_in_words, differences

__all__ = [
    "AUTO",
    "Config",
    "Section",
    "changes_in_words",
    "config_of_agreement",
    "config_of_edge",
    "differences",
    "load_config",
    "load_run_config",
    "parse_overrides",
]
