"""Widgets: packed data that unpack to what was packed, and pages that answer to a click, a key and a finger, or stay readable."""

import base64
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from loaded_models import CASE, load_models

from desam_lite.data.tasks import Task
from desam_lite.model.predictor import predict_slice
from desam_lite.study.report import notebook, prompt_maps, widgets
from desam_lite.study.report.prompt_maps import PromptableModel
from desam_lite.study.report.slice_examples import largest_slice
from desam_lite.study.report.tables import Table
from desam_lite.study.report.widgets import Widget, pack_masks, shrink_masks
from desam_lite.utils.errors import StudyError

SIDE = 4


def unpack(text: str, count: int, shape: tuple[int, int]) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8))
    return bits[: count * shape[0] * shape[1]].reshape(*shape, count).transpose(2, 0, 1).astype(bool)


def data_of(widget: Widget) -> dict[str, Any]:
    text = re.search(r'<script type="application/json">(.*?)</script>', widget.html())
    assert text
    data: dict[str, Any] = json.loads(text[1])
    return data


@pytest.fixture(scope="module")
def made(
    micro: None, tiny_task: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, PromptableModel]:
    return load_models(tmp_path_factory.mktemp("runs"), tiny_task)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ws")


@pytest.fixture(scope="module")
def pixel(made: dict[str, PromptableModel], task: Task, workspace: Path) -> Widget:
    """The widget of one slice with a model of points and one of boxes, both untrained."""
    models = [made["points"], made["box"]]
    row = largest_slice(task.slices.load(*CASE).labels)
    how: dict[str, Any] = {"slices": [row], "side": SIDE, "progress": False}
    maps = prompt_maps.prompt_maps(models, task, workspace, [CASE], **how)
    return widgets.click_a_pixel(models, maps, task, workspace, *CASE, row)


@pytest.fixture(scope="module")
def threshold(made: dict[str, PromptableModel], task: Task, workspace: Path) -> Widget:
    """The widget of a case with two untrained models."""
    models = [made["points"], made["tuned points"]]
    return widgets.move_the_threshold(models, task, workspace, *CASE, SIDE)


def test_masks_unpack_to_what_was_packed() -> None:
    masks = np.random.default_rng(0).random((5, 7, 9)) > 0.4
    assert np.array_equal(unpack(pack_masks(masks), 5, (7, 9)), masks)


def test_masks_become_no_larger_than_their_limit_and_keep_their_places() -> None:
    masks = np.zeros((1, 100, 50), bool)
    masks[0, :50, 25:] = True
    small = shrink_masks(masks, 20)
    assert small.shape == (1, 20, 10) and np.array_equal(small[0, :10, 5:], np.ones((10, 5), bool))
    assert small.sum() == 50
    assert shrink_masks(masks, 200).shape == masks.shape


def test_text_of_the_data_cannot_end_its_script() -> None:
    widget = Widget("pixel", 'a "title"', {"name": "</script><b>"}, Table(pd.DataFrame({"a": ["1"]})))
    assert "</script><b>" not in widget.html() and data_of(widget)["name"] == "</script><b>"
    assert 'aria-label="a &quot;title&quot;"' in widget.html()


def test_what_is_too_large_for_a_page_is_refused() -> None:
    widget = Widget("pixel", "Large", {"x": "a" * 400_000}, Table(pd.DataFrame({"a": ["1"]})))
    with pytest.raises(StudyError, match="'Large' has 400 kB, over the limit of 300 kB: show less in it"):
        widget.html()


def test_a_notebook_run_by_hand_gets_the_script_and_a_page_of_the_book_does_not(
    pixel: Widget, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pixel._repr_html_() == pixel.html()
    monkeypatch.setattr(widgets, "is_interactive", lambda: True)
    assert "DecompressionStream" in pixel._repr_html_()
    assert notebook.is_interactive() is False


def test_a_pixel_has_the_numbers_and_masks_of_its_maps(pixel: Widget) -> None:
    data = data_of(pixel)
    assert len(pixel.html()) < widgets.MOST_WIDGET_BYTES
    assert [panel["kind"] for panel in data["panels"]] == ["points", "box"]
    assert data["panels"][0]["scores"] and data["panels"][1]["scores"] is None
    assert data["inside"][data["start"]] == 1
    width, height = data["maskPixels"]
    assert (width, height) == (32, 40)  # so small a slice is not reduced, and Dice can be computed again
    reference = np.zeros((height, width), bool)
    for panel in data["panels"]:
        masks = unpack(panel["masks"], SIDE * SIDE, (height, width))
        assert masks.shape == (len(panel["dice"]), height, width)
        reference = reference | masks.any(axis=0)
    assert reference.any()


def test_a_threshold_gives_the_case_that_predicting_with_it_gives(
    threshold: Widget, made: dict[str, PromptableModel], task: Task, workspace: Path
) -> None:
    data, labels, method = data_of(threshold), task.slices.load(*CASE).labels, made["points"].predictor
    panel = data["models"][0]
    cut = float(np.median(panel["best"])) / 1000 + 0.0004  # some slices lose their mask, and none by rounding
    grid = replace(method.grid, points_per_side=SIDE, iou_threshold=cut, selection="iou")
    embedded = prompt_maps.slice_embeddings(made["points"], task, workspace, *CASE, range(len(labels)))
    masks = np.stack(
        [predict_slice(method.model, e, "points", labels[0].shape, grid).mask[0] for e in embedded]
    )
    drawn, inside = masks.any(axis=(1, 2)), labels.any(axis=(1, 2))
    assert 0 < drawn.sum() < len(labels)
    dice = 200 * (masks & (labels == 1)).sum() / (masks.sum() + (labels == 1).sum())
    expected = (pytest.approx(dice), (inside & ~drawn).sum(), (drawn & ~inside).sum())
    assert widgets.case_at(cut, panel, np.array(data["areas"])) == expected
    assert len(threshold.html()) < widgets.MOST_WIDGET_BYTES


# In a browser


def opened(browser, widget: Widget, path: Path, **options: object):
    """A page with nothing but a widget, and a list that gets what goes wrong on it."""
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>A page</title>'
    path.write_text(f"{head}<main><h1>A page</h1>{widget.live_html()}</main>", encoding="utf-8")
    page, faults = browser.new_context(**options).new_page(), []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda each: None if each.url[:5] in ("file:", "data:") else faults.append(each.url))
    page.goto(path.as_uri(), wait_until="load")
    return page, faults


def place_told(data: dict[str, Any], column: int, row: int) -> str:
    where = "inside" if data["inside"][SIDE * row + column] else "outside"
    return f"at column {column + 1}, row {row + 1} of {SIDE}, {where} the organ"


def touch(page, x: float, y: float, *, to: tuple[float, float] | None = None) -> None:
    """Put a finger on a place of the page, move it, and lift it."""
    session = page.context.new_cdp_session(page)
    send = lambda kind, *points: session.send(  # noqa: E731
        "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": a, "y": b} for a, b in points]}
    )
    send("touchStart", (x, y))
    for part in (0.3, 0.6, 1.0) if to else ():
        send("touchMove", (x + part * (to[0] - x), y + part * (to[1] - y)))
    send("touchEnd")


@pytest.mark.browser
def test_a_click_a_key_and_a_drag_move_the_prompt(browser, pixel: Widget, tmp_path: Path) -> None:
    page, faults = opened(browser, pixel, tmp_path / "pixel.html", viewport={"width": 1280, "height": 900})
    data, told, shown = data_of(pixel), page.locator(".told"), page.locator(".view:visible")
    page.wait_for_selector(".view")
    assert shown.count() == 1 and not page.locator("table").is_visible()
    box = shown.locator("svg").bounding_box()
    shown.locator("svg").click(position={"x": 0.9 * box["width"], "y": 0.1 * box["height"]})
    assert f"Point {place_told(data, 3, 0)}" in told.inner_text()
    assert f"Dice {data['panels'][0]['dice'][3]} %" in shown.locator("p").inner_text()
    page.locator(".views").press("ArrowDown")
    page.locator(".views").press("ArrowLeft")
    assert f"Point {place_told(data, 2, 1)}" in told.inner_text()
    page.locator(".views").press("b")
    assert f"Box with its middle {place_told(data, 2, 1)}" in told.inner_text()
    assert f"Dice {data['panels'][1]['dice'][6]} %" in shown.locator("p").inner_text()
    page.get_by_label("point", exact=True).check()
    assert told.inner_text().startswith("Point")
    box = shown.locator("svg").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.9 * box["height"], steps=4)
    page.mouse.up()
    assert f"Box with its middle {place_told(data, 2, 3)}" in told.inner_text()
    assert page.get_by_label("box of the organ's size").is_checked() and faults == []


@pytest.mark.browser
def test_the_contour_in_the_browser_is_the_border_of_the_packed_mask(
    browser, pixel: Widget, tmp_path: Path
) -> None:
    page, _ = opened(browser, pixel, tmp_path / "pixel.html")
    page.wait_for_selector(".view")
    data = data_of(pixel)
    width, height = data["maskPixels"]
    masks = unpack(data["panels"][0]["masks"], SIDE * SIDE, (height, width))
    for _ in range(3):
        mask = np.pad(masks[data["start"]], 1).astype(int)
        path = page.locator(".view:visible .mask").get_attribute("d")
        steps = [int(length) for length in re.findall(r"[hv](\d+)", path)]
        assert sum(steps) == np.abs(np.diff(mask, axis=0)).sum() + np.abs(np.diff(mask, axis=1)).sum()
        page.locator(".views").press("ArrowUp")
        data["start"] = max(data["start"] - SIDE, data["start"] % SIDE)


@pytest.mark.browser
def test_a_finger_sets_a_point_and_drags_a_box(browser, pixel: Widget, tmp_path: Path) -> None:
    page, faults = opened(
        browser, pixel, tmp_path / "pixel.html", has_touch=True, viewport={"width": 390, "height": 844}
    )
    page.wait_for_selector(".view")
    data, told = data_of(pixel), page.locator(".told")
    box = page.locator(".view:visible svg").bounding_box()
    x, y = box["x"] + 0.1 * box["width"], box["y"] + 0.1 * box["height"]
    touch(page, x, y)
    assert f"Point {place_told(data, 0, 0)}" in told.inner_text()
    touch(page, x, y, to=(x + 0.8 * box["width"], y))
    assert f"Box with its middle {place_told(data, 3, 0)}" in told.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390 and faults == []


@pytest.mark.browser
def test_the_threshold_moves_by_key_and_says_what_the_table_says(
    browser, threshold: Widget, tmp_path: Path
) -> None:
    page, faults = opened(
        browser, threshold, tmp_path / "threshold.html", viewport={"width": 390, "height": 844}
    )
    page.wait_for_selector(".view")
    slice_, cut = (page.get_by_role("slider", name=name) for name in ("slice", "threshold"))
    for name, step, dice, missed, alarms in threshold.table.frame.to_numpy():
        cut.fill(step)
        assert (
            f"{name}: Dice {dice} %, missed slices {missed}, false alarms {alarms}"
            in page.locator(".told").inner_text()
        )
    scores = data_of(threshold)["models"][0]["scores"]
    slice_.press("Home")
    cut.press("Home")
    assert page.locator(".view").first.locator(".kept").count() == sum(score > 0 for score in scores[0])
    slice_.press("ArrowRight")
    cut.press("End")
    assert (
        page.locator(".view .kept").count() == 0
        and page.locator(".view .mask").first.get_attribute("d") == ""
    )
    assert "2 of 6" in page.locator(".bar").inner_text() and "1.00" in page.locator(".bar").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390 and faults == []


VOTES = [
    {
        "X": "U-Net",
        "Y": "DeSAM-B",
        "source": "A",
        "seed": 0,
        "values": [3.0, -1.5],
        "right": "Y",
        "told": "It is so.",
    },
    {
        "X": "DeSAM-B",
        "Y": "SAM",
        "source": "B",
        "seed": 1,
        "values": [0.5, 0.0],
        "right": "none",
        "told": "Unsure.",
    },
]


@pytest.fixture
def ballots() -> Widget:
    table = Table(pd.DataFrame({"verdict of all runs": [study["told"] for study in VOTES]}))
    return Widget("vote", "Vote on small studies", {"title": "Dice (%)", "studies": VOTES}, table)


@pytest.mark.browser
def test_votes_are_counted_by_click_key_and_finger(browser, ballots: Widget, tmp_path: Path) -> None:
    page, faults = opened(
        browser, ballots, tmp_path / "vote.html", has_touch=True, viewport={"width": 390, "height": 844}
    )
    told, counted = page.locator(".told"), page.locator(".hint").first
    button = lambda name: page.get_by_role("button", name=name)  # noqa: E731
    assert "U-Net" not in page.locator(".live").inner_text()  # names are hidden until the vote
    assert page.locator(".plot").get_attribute("aria-label").endswith("+3.0, -1.5; mean +0.8")
    button("X is better").click()
    assert told.inner_text() == "Not so: X was U-Net, Y was DeSAM-B. All runs: It is so."
    assert counted.inner_text() == "0 of 1 votes right" and button("Y is better").is_disabled()
    page.keyboard.press("Enter")  # the button of the next study has the focus
    assert "Study 2 of 2" in page.locator(".live").inner_text()
    button("No winner").tap()
    assert told.inner_text().startswith("Right: X was DeSAM-B")
    assert counted.inner_text() == "1 of 2 votes right"
    button("From the first study again").tap()
    assert "Study 1 of 2" in page.locator(".live").inner_text() and counted.inner_text() == "no vote yet"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390 and faults == []


@pytest.fixture
def dial() -> Widget:
    """Two dials at three positions, and a model whose mask grows by a row with each setting."""
    masks = np.zeros((5, 8, 8), bool)
    for place, mask in enumerate(masks):
        mask[1 : 2 + place, 2:5] = True
    images = np.random.default_rng(0).integers(0, 255, (5, 8, 8)).astype(np.uint8)
    model = {
        "name": "U-Net",
        "dice": [90, 80, 70, 60, 95],
        "masks": [pack_masks(mask[None]) for mask in masks],
    }
    data = {
        **widgets.describe_slices(images, masks, (1.0, 1.0), 10_000, windows=False),
        "maskPixels": [8, 8],
        "organ": "gland",
        "color": "#e69f00",
        "way": ["A", "B"],
        "dials": ["noise", "all dials"],
        "positions": [0.0, 0.5, 1.0],
        "models": [model],
    }
    return Widget("dial", "Turn a dial from A to B", data, Table(pd.DataFrame({"U-Net": ["90"]})))


@pytest.mark.browser
def test_a_dial_turns_by_key_and_by_finger(browser, dial: Widget, tmp_path: Path) -> None:
    page, faults = opened(
        browser, dial, tmp_path / "dial.html", has_touch=True, viewport={"width": 390, "height": 844}
    )
    slider, told, view = page.get_by_role("slider"), page.locator(".told"), page.locator(".view")
    assert told.inner_text() == "With all dials at 0 of the way from A to B. Dice: U-Net 90 %."
    slider.press("ArrowRight")
    assert told.inner_text() == "With all dials at 0.5 of the way from A to B. Dice: U-Net 60 %."
    assert view.locator("p").inner_text() == "Dice 60 %, change -30"
    steps = re.findall(r"[hv](\d+)", view.locator(".mask").get_attribute("d"))
    assert sum(map(int, steps)) == 2 * (3 + 4)  # the fourth setting: 3 pixels by 4
    box = slider.bounding_box()
    touch(page, box["x"] + box["width"] - 9, box["y"] + box["height"] / 2)
    assert told.inner_text() == "With all dials at 1 of the way from A to B. Dice: U-Net 95 %."
    page.get_by_role("combobox", name="dial").select_option("noise")
    assert told.inner_text() == "With noise at 1 of the way from A to B. Dice: U-Net 70 %."
    assert view.locator("image").get_attribute("href") == dial.data["images"][2]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390 and faults == []


@pytest.mark.browser
def test_without_a_script_the_table_is_there(browser, pixel: Widget, tmp_path: Path) -> None:
    page, faults = opened(browser, pixel, tmp_path / "pixel.html", java_script_enabled=False)
    assert page.locator("table").is_visible() and page.locator(".view").count() == 0
    dice = data_of(pixel)["panels"][0]["dice"]
    assert str(dice[data_of(pixel)["start"]]) in page.locator("tbody tr").first.inner_text()
    assert faults == []


@pytest.mark.browser
@pytest.mark.parametrize("name", ["pixel", "threshold", "ballots", "dial"])
def test_axe_finds_nothing_serious_in_a_widget(
    browser, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page, _ = opened(browser, request.getfixturevalue(name), tmp_path / "widget.html")
    page.wait_for_selector(".live")
    violations = axe.Axe().run(page).response["violations"]
    assert [each["id"] for each in violations if each["impact"] in ("serious", "critical")] == []
