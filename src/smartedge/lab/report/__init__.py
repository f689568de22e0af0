"""Reads the files of a run and writes one HTML file, which opens anywhere and needs no network.

``docs/results-schema.md``, ``docs/audit-schema.md`` and ``docs/sweep-schema.md`` describe the files that it reads.

``run_page`` is the page of one run: ``read`` reads its files, ``run_verdict`` says in words what they show, ``plots``
draws figures, ``privacy`` is the section about attacks, with ``attack_plots``, ``people`` and the pictures of
``gallery``. Other pages are ``comparison``, ``fleet_page``, ``features_page``, and ``frontier`` for a sweep;
``picture`` is a comparison as one PNG. ``page`` fills in the templates, ``canvas`` draws as SVG or PNG,
``labels`` writes texts beside points.
"""

from smartedge.errors import ConfigError
from smartedge.extras import how_to_install

try:
    from smartedge.lab.report.comparison import compared, write_comparison
    from smartedge.lab.report.features_page import write_features_page
    from smartedge.lab.report.fleet_page import is_fleet, write_fleet_report
    from smartedge.lab.report.frontier import write_sweep
    from smartedge.lab.report.gallery import write_figure
    from smartedge.lab.report.picture import write_picture
    from smartedge.lab.report.run_page import write_report
except ImportError as error:
    raise ImportError(
        f"the report needs matplotlib and Jinja2, and at least one of them is not installed ({error}); run: "
        f"{how_to_install('cloud')}"
    ) from error
except ValueError as error:  # of matplotlib, which reads the environment
    raise ConfigError(
        f"matplotlib cannot start: {error}; see the variable MPLBACKEND and its file matplotlibrc"
    ) from error

__all__ = [
    "compared",
    "is_fleet",
    "write_comparison",
    "write_features_page",
    "write_figure",
    "write_fleet_report",
    "write_picture",
    "write_report",
    "write_sweep",
]
