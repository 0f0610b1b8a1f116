"""``python -m federation.release JOB/job.json``: release, roll-back and versions as a process, so that the web never imports MLflow."""

import sys
from pathlib import Path

from federation.jobs.job_folder import run_job


def main(arguments: list[str]) -> int:
    """Run one job; returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m federation.release JOB/job.json\n")
        return 2
    from federation.release.job import ReleaseJob, do

    return run_job(Path(arguments[0]), ReleaseJob, do)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
