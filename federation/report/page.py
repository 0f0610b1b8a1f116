"""HTML page of a report, whole or in parts.

The page loads nothing: style and figures are inside it, there is no script, and its content policy
forbids the browser to fetch anything.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from federation.report import gallery, summary, tables
from federation.report.attention import MOST_EXAMPLES, pictures
from federation.report.folder import RunFolder, read_run_folder
from federation.report.palette import style_sheet

_TEMPLATE = "report.html.j2"


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run folder, whatever state the run is in.

    Args:
        run_dir: The run folder; only read, but for the page.

    Returns:
        The page's path.

    Raises:
        ReportError: If there is no such folder.
    """
    text = render(read_run_folder(run_dir))
    path = run_dir / "report.html"
    handle, temporary = tempfile.mkstemp(dir=run_dir, prefix=".report-", suffix=".html")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def render(run: RunFolder) -> str:
    """The page as text."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Figures are the only text that is not escaped here: they were escaped when they were drawn.
    environment.filters["figure"] = Markup
    method, dataset = summary.method_name(run), summary.dataset_name(run)
    return environment.get_template(_TEMPLATE).render(
        title=f"{method or 'Unknown method'} on {dataset or 'an unknown data set'}",
        run=run,
        status=summary.status(run),
        style=Markup(style_sheet()),
        headlines=summary.headlines(run),
        notices=summary.notices(run),
        facts=summary.what_was_run(run),
        tasks=tables.task_table(run),
        hospitals=tables.hospital_table(run),
        sections=gallery.sections(run),
        pictures=pictures(run.examples) if run.examples else [],
        num_pictures_left_out=max(0, len(run.examples.class_names) - MOST_EXAMPLES)
        if run.examples
        else 0,
        rejections=tables.rejection_table(run),
        events=tables.event_table(run),
        models=tables.model_table(run),
        configuration=json.dumps(run.config, indent=2, ensure_ascii=False, default=str)
        if run.config
        else "",
    )
