"""Everything that only a GPU can tell, within a quarter of an hour, with a verdict.

    python -m loadtests.gpu_report --pack build/gpu            # here: images, weights, wheels, generator
    python -m loadtests.gpu_report --packed build/gpu          # there: on a bare machine, without a network
    python -m loadtests.gpu_report                             # where the service runs anyway

Writes `report.json` and `report.md` (the table of docs/gpu.md) to `--out`, prints the second, and ends with 1
where a bar is missed, with the reasons (see `verdict.py`). A part that fails or that there is no time for is
reported as such, and the others go on. `--device cpu` tries the program where there is no GPU.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from loadtests import command
from loadtests.gpu_report import carried  # the standard library alone, until what is carried is unpacked

MINUTES = 15.0
ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """The report; 0: every bar is met."""
    parser = command.parser(__doc__)
    parser.add_argument("--pack", type=Path, help="write what a bare machine needs to this folder, and end")
    parser.add_argument(
        "--limit", type=float, default=64.0, help="MiB of the checkout, without docs/, and the pack"
    )
    parser.add_argument("--models", help="of the pack, in their order, separated by commas; default: all")
    parser.add_argument("--packed", type=Path, help="such a folder")
    parser.add_argument("--images", type=Path, help="a folder with those of a pack; default: the pack's")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-report")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement under load")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which no part begins")
    parser.add_argument("--parts", help="separated by commas; default: all")
    asked = parser.parse_args()
    if asked.pack:
        from loadtests.gpu_report.pack import MODELS, pack

        print(pack(asked.pack, asked.limit, asked.models.split(",") if asked.models else MODELS))
        return 0
    if asked.packed and carried.MARK not in os.environ:
        carried.restart(asked.packed.resolve())
    from loadtests.gpu_report.parts import PARTS
    from loadtests.gpu_report.served import Setting
    from loadtests.gpu_report.verdict import judge, table

    names = asked.parts.split(",") if asked.parts else list(PARTS)
    if unknown := set(names) - set(PARTS):
        parser.error(f"no part named {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    os.environ["LYNCEUS_DEVICE"] = asked.device  # of all the processes that are started here
    ends = time.monotonic() + 60 * asked.minutes
    setting = Setting(asked.device, asked.seconds, carried.images(asked.packed, asked.images), ends)
    report: dict[str, object] = {}
    asked.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        began = time.monotonic()
        try:
            found = PARTS[name](setting) if began < ends else {"skipped": "there was no time left"}
        except Exception as error:  # of a part: the others tell what they can
            found = {"failed": f"{type(error).__name__}: {error}"[:2000]}
        report[name] = {**found, "took_s": round(time.monotonic() - began, 1)}
        print(f"{name}: {json.dumps(report[name])[:300]}", file=sys.stderr, flush=True)
        reasons = judge(report, asked.device)
        report_text = table(report, reasons)
        (asked.out / "report.json").write_text(json.dumps({**report, "reasons": reasons}, indent=1))
        (asked.out / "report.md").write_text(report_text)
    print(report_text)
    return int(bool(reasons))


if __name__ == "__main__":
    raise SystemExit(main())
