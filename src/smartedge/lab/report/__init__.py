"""From what a run wrote to its directory to one HTML file that opens anywhere, without a network.

What is read is described in ``docs/results-schema.md``, ``docs/audit-schema.md`` and ``docs/sweep-schema.md``.
"""

try:
    from smartedge.lab.report.comparison import write_comparison
    from smartedge.lab.report.frontier import write_sweep
    from smartedge.lab.report.gallery import write_figure
    from smartedge.lab.report.picture import write_picture
    from smartedge.lab.report.run_page import write_report
except ImportError as error:
    raise ImportError(
        f"the report needs matplotlib and Jinja2, which are not all here ({error}); "
        "install the extra that brings them: pip install 'smartedge[cloud]'"
    ) from error

__all__ = ["write_comparison", "write_figure", "write_picture", "write_report", "write_sweep"]
