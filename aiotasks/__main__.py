"""The ``aiotasks`` command, which needs the extra ``cli``."""

import sys


_EXTRA = {"typer", "rich"}


def main() -> None:
    """Run the command line, or name the extra that it needs."""
    try:
        from .cli import app  # noqa: PLC0415 - its absence is reported here
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        sys.exit("The command line needs its extra: pip install 'affinity-aiotasks[cli]'")
    app.main()


if __name__ == "__main__":
    main()
