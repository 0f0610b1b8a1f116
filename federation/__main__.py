"""The program, ``python -m federation``. Imports nothing heavy, so that ``--help`` is quick."""

import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> None:
    """Run the command line."""
    _check_packages()
    from federation.cli import run_app

    run_app()


def _check_packages() -> None:
    """Exit if one of our packages comes from another distribution of the same name.

    The package index has distributions with two of these names.
    """
    home = Path(__file__).resolve().parents[1]
    for name in ("physical", "incremental", "twin", "federation"):
        spec = find_spec(name)
        found = Path(spec.origin).resolve().parents[1] if spec and spec.origin else None
        if found != home:
            sys.exit(
                f"error: the package '{name}' comes from {found}, not from {home}; "
                "another distribution of that name is installed; "
                f"run in an environment of its own (make env), or: pip uninstall {name}"
            )


if __name__ == "__main__":
    main()
