"""Breaks a server in every way of a list, and judges what its clients saw.

    python -m loadtests.faults [--case PATTERN] [--table FILE]

Each fault has a server of its own, on loopback; seven clients ask it meanwhile over HTTP and gRPC and compare
every answer. Exits 1 where one misses its bars: no wrong answer, no hang and no reset but of what was with a
process that was killed, nothing left behind, a bound on every end and every start that cannot succeed.
"""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path

from loadtests import command
from loadtests.faults import processes, resources, starts
from loadtests.faults.beside import beside
from loadtests.faults.case import HEAD, Row, line
from loadtests.server import exit_on_sigterm

BESIDE = processes.BESIDE | resources.BESIDE
CASES = starts.CASES | processes.CASES | {name: beside({name: fault}) for name, fault in BESIDE.items()}
CASES |= resources.CASES


def main() -> int:
    """Prints a line for each fault, as they are done."""
    parser = command.parser(__doc__)
    parser.add_argument("--case", default="", help="only faults whose names match this pattern")
    parser.add_argument(
        "--together", action="store_true", help="those that a server stands are done to one server"
    )
    parser.add_argument("--table", type=Path, help="a file that takes the table")
    options = parser.parse_args()
    exit_on_sigterm()
    rows = []
    cases = {name: case for name, case in CASES.items() if re.search(options.case, name)}
    if options.together:
        several = {name: BESIDE[name] for name in cases if name in BESIDE}
        cases = {name: case for name, case in cases.items() if name not in several}
        cases["; ".join(several)] = beside(several, slow=True)
    print(HEAD, flush=True)
    for name, case in cases.items():
        row = Row(name)
        try:
            case(row)
        except Exception as error:
            traceback.print_exc()
            row.failures.append(" ".join(str(error).split())[:200] or repr(error))
        rows.append(row)
        print(line(row), flush=True)
    if options.table:
        options.table.write_text("\n".join([HEAD, *map(line, rows)]) + "\n", encoding="utf-8")
    return int(any(row.failures for row in rows))


if __name__ == "__main__":
    sys.exit(main())
