"""The report of a run: one page that needs nothing else, and what it is drawn from."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from loadtests.report import html_table, page
from loadtests.scrape import by_model, mean_batches, read
from service.telemetry.metrics import Metrics
from tests.loadtests.runs import BEGAN, SLO, failed, honest


class Tags(HTMLParser):
    """Counts tags, and keeps what is linked."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: dict[str, int] = {}
        self.closed: dict[str, int] = {}
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened[tag] = self.opened.get(tag, 0) + 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        self.closed[tag] = self.closed.get(tag, 0) + 1


@pytest.fixture(scope="module")
def document() -> str:
    return page(failed(honest(), "classify", 100), SLO)


def test_the_page_is_whole_and_alone(document: str) -> None:
    tags = Tags()
    tags.feed(document)
    for tag in ("html", "body", "table", "svg", "tr", "td"):
        assert tags.opened[tag] == tags.closed[tag], tag
    assert all(link.startswith("#") for link in tags.links)
    assert "<script" not in document


def test_the_page_tells_the_verdict_and_the_reason(document: str) -> None:
    assert "FAILED: classify: 15 of 1500 answers are errors" in document
    assert "PASSED: every limit was kept" in page(honest(), SLO)
    assert "status 500: internal" in document


def test_the_page_shows_all_four_plots(document: str) -> None:
    for label in ("answers per second", "latency, ms", "images per batch", "images waiting", "p99"):
        assert label in document
    assert document.count("efficientnet-lite0") >= 2


def test_what_others_wrote_is_escaped(document: str) -> None:
    assert "<nothing>" not in document
    assert "&lt;nothing&gt;" in document


def test_a_run_without_answers_has_a_page_too() -> None:
    assert "not one request" in page(honest(requests=[], samples=[]), SLO)


def test_tables_of_markdown_become_tables() -> None:
    given = "| a | b |\n| --- | --- |\n| 1 | <2 |"
    assert re.sub(r"</?(tr|th|td|table)>", " ", html_table(given)).split() == ["a", "b", "1", "&lt;2"]


def test_the_services_own_metrics_are_read() -> None:
    metrics = Metrics()
    metrics.queue_depth.labels("mtcnn").set(7)
    for size in (1, 3):
        metrics.batch_size.labels("mtcnn").observe(size)
    metrics.dropped.labels("mtcnn", "full").inc()
    assert read(metrics.render().decode()) == {
        'lynceus_queue_depth{model="mtcnn"}': 7.0,
        'lynceus_batch_size_sum{model="mtcnn"}': 4.0,
        'lynceus_batch_size_count{model="mtcnn"}': 2.0,
    }


def test_curves_are_told_by_model() -> None:
    samples = honest().samples
    depths = by_model(samples, "lynceus_queue_depth")["efficientnet-lite0"]
    assert depths[:4] == [(BEGAN, 0.0), (BEGAN + 1, 1.0), (BEGAN + 2, 2.0), (BEGAN + 3, 0.0)]
    batches = mean_batches(samples)["efficientnet-lite0"]
    assert batches[0] == (BEGAN + 1, 1.5)
    assert len(batches) == 59
