"""``python -m federation``: the program. Loads nothing heavy: ``--help`` answers at once."""

import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> None:
    """Run the command line."""
    _check_packages()
    from federation.cli import run_app

    run_app()


def _check_packages() -> None:
    """Stop where another distribution's package of the same name was imported instead of ours."""
    home = Path(__file__).resolve().parents[1]
    for name in ("physical", "incremental", "twin", "federation"):
        spec = find_spec(name)
        place = Path(spec.origin).resolve().parents[1] if spec and spec.origin else None
        if place != home:
            sys.exit(
                f"error: the package '{name}' comes from {place}, not from {home}; "
                "another distribution of that name is installed; "
                f"run in an environment of its own (make env), or: pip uninstall {name}"
            )


if __name__ == "__main__":
    main()
