"""The command line's entry: ``python -m hpc`` and the ``hpc-serve`` program."""

from __future__ import annotations


def main() -> None:
    """Run ``hpc-serve``."""
    from hpc.cli.main import run  # noqa: PLC0415 - importing hpc stays free

    run()


if __name__ == "__main__":
    main()
