"""Run a class addition in a process of its own, so that the web process loads no torch.

Usage: ``python -m federation.class_addition JOB/job.json``.
"""

import sys

from federation.jobs.runner import job_path_from_command_line, run_job


def main() -> None:
    """Run one job and exit with its code."""
    path = job_path_from_command_line("federation.class_addition")
    from federation.class_addition.job import AdditionJob, run_addition

    sys.exit(run_job(path, AdditionJob, run_addition))


if __name__ == "__main__":
    main()
