"""What the commands share: the form of their help and the head of their tables."""

from __future__ import annotations

import argparse


def parser(module: str | None, prog: str | None = None) -> argparse.ArgumentParser:
    """Of a command whose help is its module's docstring, as it stands there."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog, description=module, formatter_class=form)


def head(*columns: object) -> str:
    """The first two lines of a table in Markdown."""
    return f"| {' | '.join(map(str, columns))} |\n|{' --- |' * len(columns)}"
