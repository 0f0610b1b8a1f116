"""``python -m federation.class_addition JOB/job.json``: a class addition as a process, so that the web never imports torch."""

import sys
from pathlib import Path

from federation.jobs.job_folder import run_job


def main(arguments: list[str]) -> int:
    """Run one job; returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m federation.class_addition JOB/job.json\n")
        return 2
    from federation.class_addition.job import AdditionJob, do

    return run_job(Path(arguments[0]), AdditionJob, do)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
