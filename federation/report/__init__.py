"""Report of a run: one self-contained HTML page made from the run folder alone.

Reading order: ``folder`` (what a run left behind), ``page`` (what is shown of it), ``figures`` (how
it is drawn). The report starts no run, loads no model and reaches no network; whatever the folder
lacks is named on the page instead of failing.
"""

from federation.report.folder import ReportError
from federation.report.page import write_report

__all__ = ["ReportError", "write_report"]
