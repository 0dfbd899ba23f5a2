"""A run as one page of HTML that needs nothing else.

python -m loadtests.report build/loadtest/record.json --output build/loadtest/report.html
"""

from __future__ import annotations

import time
from collections import Counter
from html import escape
from pathlib import Path

from loadtests import command, plots
from loadtests.record import OK, Record
from loadtests.verdict import SLO, Slo, judge, lateness, read_slo, sentence, table

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:.2rem .6rem;text-align:right}"
    "td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto}"
    ".passed{color:#176b2c}.failed{color:#a3171c}"
)


def page(record: Record, slo: Slo) -> str:
    """The whole document."""
    reasons = judge(record, slo)
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(record.began))
    seconds = sum(seconds for seconds, _ in record.steps)
    facts = {
        "begun": began,
        "length": f"{seconds:.0f} s",
        "ceiling of the mix, in process": f"{record.ceiling:.1f} requests/s",
        "departures": lateness(record),
        **record.facts,
    }
    answered = sum(request.outcome == OK for request in record.requests)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Lynceus under load</title>',
        f"<style>{STYLE}</style></head><body><h1>Lynceus under load</h1>",
        f'<p class="{"failed" if reasons else "passed"}"><strong>{escape(sentence(reasons))}</strong></p>',
        f"<p>{answered} of {len(record.requests)} requests were answered right.</p>",
        html_table(table(record, slo)),
        "<h2>Over time</h2><p>Answers by when they came, dotted what was asked for; latencies by when the "
        "request was due; batches and queues from <code>/metrics</code>.</p>",
        plots.of_run(record),
        "<h2>What went wrong</h2>",
        _wrong(record),
        "<h2>The run</h2><table>",
        *(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts.items()),
        "</table></body></html>",
    ]
    return "\n".join(parts)


def html_table(markdown: str) -> str:
    """A table of Markdown as one of HTML."""
    head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body]
    return f"<table>{''.join(lines)}</table>"


def _wrong(record: Record) -> str:
    counts = Counter(
        (each.task, each.outcome, each.detail[:200]) for each in record.requests if each.outcome != OK
    )
    if not counts:
        return "<p>Nothing.</p>"
    rows = "".join(
        f"<tr><td>{escape(task)}</td><td>{outcome}</td><td>{count}</td><td>{escape(detail)}</td></tr>"
        for (task, outcome, detail), count in counts.most_common(20)
    )
    return f"<table>{rows}</table>"


def main() -> None:
    """Writes the page."""
    parser = command.parser(__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("--slo", type=Path, default=SLO)
    parser.add_argument("--output", type=Path, default=Path("build/loadtest/report.html"))
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(page(Record.read(options.record), read_slo(options.slo)), encoding="utf-8")


if __name__ == "__main__":
    main()
