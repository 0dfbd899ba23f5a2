"""Fuzzing: `python -m loadtests.fuzz KIND`: requests to a server, or decoding in child processes."""

from __future__ import annotations

import importlib
import sys

from loadtests.fuzz import wire

KINDS = ("json", "multipart", "grpc", "decode")


def main() -> int:
    """Runs the kind that is named with the arguments behind it."""
    if len(sys.argv) < 2 or sys.argv[1] not in KINDS:
        print(f"usage: python -m loadtests.fuzz {'|'.join(KINDS)} [--count N] [--seed S]", file=sys.stderr)
        return 2
    kind, *arguments = sys.argv[1:]
    module = importlib.import_module(f"loadtests.fuzz.{kind}_fuzz")
    status: int = module.main(arguments) if kind == "decode" else wire.run(module.KIND, arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
