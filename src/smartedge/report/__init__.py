"""From what a run wrote to its directory to one HTML file that opens anywhere, without a network.

Needs matplotlib and Jinja2: the extra ``cloud``. What is read is described in ``docs/results-schema.md``.
"""

from smartedge.report.html import write_comparison, write_report
from smartedge.report.picture import write_picture

__all__ = ["write_comparison", "write_picture", "write_report"]
