"""Fuzzing: `python -m loadtests.fuzz KIND`, where KIND is a module of this package with a `main`."""

from __future__ import annotations

import importlib
import sys

KINDS = ("json", "multipart", "grpc", "decode")


def main() -> int:
    """Runs the kind that is named with the arguments behind it."""
    if len(sys.argv) < 2 or sys.argv[1] not in KINDS:
        print(f"usage: python -m loadtests.fuzz {'|'.join(KINDS)} [--count N] [--seed S]", file=sys.stderr)
        return 2
    module = importlib.import_module(f"loadtests.fuzz.{sys.argv[1]}_fuzz")
    status: int = module.main(sys.argv[2:])
    return status


if __name__ == "__main__":
    sys.exit(main())
