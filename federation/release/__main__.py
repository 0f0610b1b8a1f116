"""Run a release job in a process of its own, so that the web process loads no MLflow.

Usage: ``python -m federation.release JOB/job.json``.
"""

import sys

from federation.jobs.runner import job_path_from_command_line, run_job


def main() -> None:
    """Run one job and exit with its code."""
    path = job_path_from_command_line("federation.release")
    from federation.release.job import ReleaseJob, run_release

    sys.exit(run_job(path, ReleaseJob, run_release))


if __name__ == "__main__":
    main()
