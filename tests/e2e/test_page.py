"""The pages in a real browser: every task on a photograph, no error in the console, no other host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, expect

from models.image import decode
from tests.paths import ROOT
from tests.server import Server

pytestmark = pytest.mark.e2e

UI = ROOT / "service" / "web" / "ui"
ASTRONAUT = UI / "sample-astronaut.jpg"
SLOW = 60_000
"""Milliseconds that an answer may take on a busy machine."""


@contextmanager
def opened(browser: Browser, server: Server, path: str = "/", **options: object) -> Iterator[Page]:
    """A page of the server; fails where it requested another host or wrote an error to the console."""
    context = browser.new_context(**options)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(SLOW)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((server.url, "blob:", "data:")) else wrong.append(request.url)
        ),
    )
    page.goto(server.url + path)
    yield page
    context.close()
    assert wrong == []


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def drop(page: Page, path: Path, slot: str = "image") -> None:
    page.locator(f".slot[data-name={slot}] input").set_input_files(path)


def done(page: Page) -> None:
    expect(page.locator("#status")).to_have_text("done", timeout=SLOW)
    expect(page.locator("#problem")).to_be_hidden()


def canvas(page: Page) -> NDArray[np.uint8]:
    return decode(page.locator(".slot canvas").first.screenshot()).pixels


def test_there_is_a_tab_for_every_task_that_takes_images(browser: Browser, server: Server) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    paths = [
        path
        for path, methods in document["paths"].items()
        if "multipart/form-data" in methods.get("post", {}).get("requestBody", {}).get("content", {})
    ]
    paths += [f"/v1/models/{{name}}/{what}" for what in ("filters", "visualize/jobs")]
    assert set(paths) <= document["paths"].keys()
    with opened(browser, server) as page:
        expect(page.get_by_role("tab")).to_have_count(len(paths))


def test_labels_of_a_sample(browser: Browser, server: Server) -> None:
    with opened(browser, server) as page:
        tab(page, "classify")
        page.get_by_role("button", name="sample: cat").click()
        done(page)
        expect(page.get_by_role("list", name="labels").get_by_role("listitem")).to_have_count(5)
        expect(page.locator("#answer")).to_contain_text("cat")
        expect(page.locator("#timing")).to_contain_text("compute")
        page.locator("#json-details summary").click()
        expect(page.locator("#json")).to_contain_text('"labels"')
        page.get_by_text("Command").click()
        expect(page.locator("#curl")).to_contain_text(
            f"curl -sS -F 'image=@cat.jpg' '{server.url}/v1/classify'"
        )


def test_boxes_are_drawn_over_the_photograph_and_a_slider_acts_at_once(
    browser: Browser, server: Server
) -> None:
    with opened(browser, server) as page:
        tab(page, "classify")
        drop(page, ASTRONAUT)
        done(page)
        plain = canvas(page)
        tab(page, "faces detect")
        done(page)
        drawn = canvas(page)
        assert plain.shape == drawn.shape
        found = page.get_by_role("list", name="found").get_by_role("listitem")
        expect(found).to_have_count(1)
        different = np.argwhere((plain != drawn).any(-1))
        top, left = different.min(0) / drawn.shape[:2]
        bottom, right = different.max(0) / drawn.shape[:2]
        assert top < 0.25 < bottom < 0.6  # the face is in the upper middle
        assert 0.2 < left < 0.45 < right < 0.7
        found.get_by_role("button").focus()
        expect(page.locator(".tip")).to_contain_text("face 1.00")
        slider = page.get_by_role("slider", name="score_threshold")
        slider.focus()
        slider.press("End")
        expect(page.locator("#answer")).to_have_text("Nothing was found.")


def test_two_faces_on_a_scale(browser: Browser, server: Server) -> None:
    with opened(browser, server) as page:
        tab(page, "faces verify")
        drop(page, ASTRONAUT, "a")
        drop(page, ASTRONAUT, "b")
        done(page)
        expect(page.locator("#answer")).to_contain_text("The same person.")
        expect(page.locator("#answer svg")).to_contain_text("threshold")


def test_a_face_is_named(browser: Browser, server: Server, tmp_path: Path) -> None:
    known = tmp_path / "Eileen.jpg"
    known.write_bytes(ASTRONAUT.read_bytes())
    with opened(browser, server) as page:
        tab(page, "faces identify")
        drop(page, ASTRONAUT)
        drop(page, known, "gallery")
        done(page)
        match = page.get_by_role("list", name="matches").get_by_role("listitem")
        expect(match).to_have_count(1)
        expect(match).to_contain_text("Eileen: the same person")
        page.get_by_role("list", name="found").get_by_role("button").focus()
        expect(page.locator(".tip")).to_contain_text("Eileen")


@pytest.mark.parametrize("name", ["stylize", "classify explain"])
def test_an_answer_that_is_an_image(browser: Browser, server: Server, name: str) -> None:
    with opened(browser, server) as page:
        tab(page, name)
        page.get_by_role("button", name="sample: cat").click()
        done(page)
        image = page.locator("#answer img")
        expect(image).to_be_visible()
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100


@pytest.mark.parametrize("kind", ["windows", "activations", "saliency", "occlusion"])
def test_every_kind_of_explanation(browser: Browser, server: Server, kind: str) -> None:
    with opened(browser, server) as page:
        tab(page, "classify explain")
        page.locator("#controls [name=kind]").select_option(kind)
        page.get_by_role("button", name="sample: cat").click()
        done(page)
        image = page.locator("#answer img")
        expect(image).to_have_attribute("alt", re.compile(rf"^{kind};index=\d+;label="))
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100


def test_a_layer_is_suggested_and_its_filters_are_shown(browser: Browser, server: Server) -> None:
    with opened(browser, server) as page:
        tab(page, "filters")
        done(page)
        expect(page.locator("#answer img")).to_be_visible()
        page.locator("#controls [name=model]").select_option("lenet5")
        page.locator("#controls [name=layer]").focus()
        expect(page.locator("#layers option[value='features.3']")).to_be_attached(timeout=SLOW)
        page.locator("#controls [name=layer]").fill("features.3")
        done(page)
        page.get_by_text("Command").click()
        expect(page.locator("#curl")).to_contain_text("/v1/models/lenet5/filters?layer=features.3")


def test_what_a_network_looks_for(browser: Browser, server: Server) -> None:
    with opened(browser, server) as page:
        tab(page, "visualize jobs")
        page.locator("#controls [name=model]").select_option("lenet5")
        page.locator("#controls [name=label]").fill("3")
        page.locator("#controls [name=steps]").fill("10")
        page.get_by_role("button", name="Run again").click()
        expect(page.locator("#answer")).to_contain_text("succeeded: step 10 of 10", timeout=2 * SLOW)
        expect(page.locator("#answer img")).to_be_visible()


def test_styles_are_chosen_by_their_thumbnails(browser: Browser, server: Server) -> None:
    with opened(browser, server) as page:
        tab(page, "stylize")
        styles = httpx.get(f"{server.url}/v1/styles").json()["styles"]
        expect(page.locator(".styles label")).to_have_count(len(styles))
        page.locator(".styles label", has_text=styles[1]["title"]).click()
        page.get_by_text("Command").click()
        expect(page.locator("#curl")).to_contain_text(f"style={styles[1]['name']}")


def test_a_job_with_progress(browser: Browser, server: Server) -> None:
    with opened(browser, server) as page:
        tab(page, "stylize jobs")
        for name, value in (("steps", "10"), ("size", "64")):
            page.locator(f"#controls [name={name}]").fill(value)
        drop(page, ASTRONAUT, "content")
        drop(page, UI / "sample-coffee.jpg", "style")
        page.get_by_role("button", name="Run again").click()
        expect(page.locator("#answer")).to_contain_text("succeeded: step 10 of 10", timeout=2 * SLOW)
        expect(page.locator("#answer img")).to_be_visible()


def test_a_problem_is_shown_as_text(browser: Browser, server: Server, tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("<b>no image</b>")
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    drop(page, text)
    expect(page.get_by_role("alert")).to_contain_text("no accepted format", timeout=SLOW)
    context.close()


def test_tabs_by_keyboard_on_a_phone_in_the_dark(browser: Browser, server: Server) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark", "has_touch": True}
    with opened(browser, server, **phone) as page:
        first = page.get_by_role("tab").first
        first.focus()
        first.press("ArrowRight")
        second = page.get_by_role("tab").nth(1)
        expect(second).to_be_focused()
        expect(second).to_have_attribute("aria-selected", "true")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert dark == "rgb(22, 24, 28)"


def test_the_document_works_without_the_internet(browser: Browser, server: Server) -> None:
    with opened(browser, server, "/docs") as page:
        expect(page.locator(".opblock-summary-path").first).to_be_visible(timeout=SLOW)
        expect(page.get_by_text("/v1/detect", exact=True)).to_be_visible()
