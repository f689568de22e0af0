"""The settings of a run: read from YAML, checked as a whole, every problem reported at once.

``sections`` and ``operation`` are the sections of a settings file (``section`` is their base), ``settings`` all of
them together, ``problems`` which of them do not go together. ``reading`` reads them from ``yaml_text``, ``writing``
writes them.
"""

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
