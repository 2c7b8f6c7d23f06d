"""A case as a page: every slice, its contours where the masks are, small, offline, with keys, and without a script too."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import complaint
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Outline
from PIL import Image
from small_run import spec_for

from desam_lite.data.tasks import open_task
from desam_lite.study.report.case_viewer import CaseViewer, find_case, outlines, view_case
from desam_lite.study.run import Run, execute_run, open_run
from desam_lite.utils.errors import StudyError

Place = tuple[Path, Path]
ORGANS = {"gland": "#e69f00", "zone": "#56b4e9"}


def volume(slices: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a gland in the middle slices and, in a corner at the patient's right, a zone."""
    images = np.random.default_rng(0).integers(0, 255, (slices, 20, 16)).astype(np.uint8)
    labels = np.zeros_like(images)
    labels[1:-1, 6:12, 5:11] = 1
    labels[1, 1:3, 1:4] = 2
    return images, labels


def viewer(**changes: object) -> CaseViewer:
    images, labels = volume()
    given_ = {
        "predictions": {"U-Net": np.roll(labels, 1, axis=2)},
        "organs": ORGANS,
        "spacing": (3.0, 1.0, 0.5),
    }
    return CaseViewer(images, **{**given_, "title": "B0 of <B>", "reference": labels, **changes})


def outline_mask(path: str, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres are inside a path, by the rule even-odd."""
    inside = np.zeros(shape, bool)
    rows, columns = np.indices(shape)
    centres = np.column_stack([2 * columns.ravel() + 1, 2 * rows.ravel() + 1])
    for piece in re.findall(r"M([^z]+)z", path):
        numbers = [list(map(int, re.findall(r"-?\d+", part))) for part in piece.split("l")]
        inside ^= Outline(np.cumsum(numbers, axis=0)).contains_points(centres).reshape(shape)
    return inside


@given(arrays(bool, (7, 9)))
@settings(max_examples=60, deadline=None)
def test_an_outline_encloses_the_pixels_of_its_mask(mask: np.ndarray) -> None:
    if mask.any():
        assert np.array_equal(outline_mask("".join(outlines(mask)), mask.shape), mask)


def test_every_slice_is_there_with_its_image_and_what_it_shows() -> None:
    page = viewer().html()
    images, labels = volume()
    urls = re.findall(r"data:image/png;base64,([^\"]+)", page)
    drawn = [np.asarray(Image.open(io.BytesIO(base64.b64decode(url)))) for url in urls]
    assert np.array_equal(
        np.stack(drawn), images
    )  # in the frame of the slices, which is the radiological one
    assert "slice 1 of 5<" in page and "slice 2 of 5; Dice of U-Net: gland 83 %, zone 67 %<" in page
    assert "B0 of &lt;B&gt;" in page and "<B>" not in page
    assert 'viewBox="0 0 16 40"' in page  # pixels twice as high as wide
    second = page.split('id="s2"')[1].split("</li>")[0]
    paths = dict(re.findall(r'class="(l\d o\d)" d="([^"]+)"', second))
    assert np.array_equal(outline_mask(paths["l0 o1"], (20, 16)), labels[1] == 1)
    assert np.array_equal(outline_mask(paths["l1 o2"], (20, 16)), np.roll(labels, 1, axis=2)[1] == 2)


def test_a_single_prediction_has_the_colours_of_organs_and_several_have_their_own() -> None:
    single = viewer().html()
    assert ".l1.o1 { stroke: #e69f00; }" in single and ".l1.o2 { stroke: #56b4e9; }" in single
    _, labels = volume()
    several = viewer(predictions={"a": labels, "b": labels}).html()
    assert ".l1.o1 { stroke: #e69f00; }" in several and ".l1.o2 { stroke: #e69f00; }" in several
    assert ".l2.o1 { stroke: #56b4e9; }" in several and "stroke-dasharray: 5 3.5" in several


def test_a_scan_without_reference_tells_how_large_organs_are() -> None:
    page = viewer(reference=None, notes=["its spacing is odd & so on"]).html()
    assert "slice 2 of 5; U-Net: gland 0.2 cm²" in page
    assert (
        "<p>its spacing is odd &amp; so on</p>" in page
        and "reference" not in page.split("<script>")[0].split("<body>")[1]
    )


def test_an_empty_prediction_is_a_page_too() -> None:
    images, labels = volume()
    page = viewer(predictions={"U-Net": np.zeros_like(labels)}, reference=None).html()
    assert "<path class" not in page and 'value="3"' in page and page.count("<figure>") == len(images)


def test_many_large_slices_stay_under_three_megabytes() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (60, 256, 256)).astype(np.uint8)
    labels = np.zeros_like(images)
    labels[5:50, 60:200, 60:200] = 1
    made = CaseViewer(images, {"a": labels}, ORGANS, (3.0, 1.0, 1.0), "large", reference=labels).html()
    assert 300_000 < len(made.encode()) < 3_000_000 and "packed as JPEG" in made


def test_what_cannot_fit_into_a_page_is_one_sentence() -> None:
    images, labels = np.zeros((9000, 8, 8), np.uint8), np.zeros((9000, 8, 8), np.uint8)
    with pytest.raises(StudyError, match="9000 slices are too many for one page"):
        CaseViewer(images, {"a": labels}, ORGANS, (1.0, 1.0, 1.0), "long").html()


def test_in_a_notebook_it_is_a_frame_with_the_same_page() -> None:
    shown = viewer()
    frame = shown._repr_html_()
    assert frame.startswith('<iframe srcdoc="&lt;!doctype html&gt;') and 'sandbox="allow-scripts"' in frame
    assert frame.count("<") == 2  # nothing of the page is read as part of the notebook
    assert repr(shown) == "B0 of <B>: 5 slices, contours of reference, U-Net"


# Of runs


@pytest.fixture(scope="module")
def unet(tiny_task: Place, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return execute_run(spec_for(tiny_task), tmp_path_factory.mktemp("ws"), accelerator="cpu", progress=False)


def test_runs_are_shown_with_what_they_predicted_and_scored(unet: Run, tiny_task: Place) -> None:
    task = open_task(*tiny_task, unet.directory.parents[1], progress=False)
    shown = view_case(task, [unet], "B", "B1")
    reference, own = shown.layers
    assert (reference.name, own.name) == ("reference", "U-Net") and reference.dashed and not own.dashed
    assert np.array_equal(own.labels, unet.prediction("B", "B1"))
    assert np.array_equal(reference.labels, task.slices.load("B", "B1").labels)
    dice = unet.metrics().query("case == 'B1' and protocol == 'published'")["dice"].item()
    assert f"blob {100 * dice:.1f} (published)" in shown.notes[0]
    twice = view_case(task, [unet, unet], "B", "B1")
    assert [layer.name for layer in twice.layers] == ["reference", "U-Net, A, seed 0"]


def test_the_command_writes_the_page_of_a_case(run, unet: Run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("show", unet.directory, "--case", "B1")
    assert (code, out) == (0, "wrote B_B1.html: open it in any browser\n")
    assert "<h1>B1 of B</h1>" in (tmp_path / "B_B1.html").read_text()
    code, _, err = run("show", unet.directory, "--case", "B/B1", "--out", "page.png")
    assert code == 1 and "give a name that ends in .html" in complaint(err)
    code, _, err = run("show", unet.directory, "--case", "B/B9")
    assert code == 1 and "has tested no case 'B/B9': did you mean 'B/B" in complaint(err)
    code, _, err = run("show", tmp_path, "--case", "B1")
    assert code == 1 and "is no folder of a run: give one, as results/runs/NAME" in complaint(err)


def test_a_run_is_opened_by_its_folder(unet: Run, tmp_path: Path) -> None:
    assert open_run(unet.directory) == unet
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(StudyError, match=r"run.json' is damaged or of another version of this package"):
        open_run(tmp_path)


def test_a_case_is_named_with_its_domain_where_several_have_it(unet: Run, monkeypatch) -> None:
    assert find_case(unet, "B/B0") == find_case(unet, "B0") == ("B", "B0")
    rows = unet.metrics().assign(case="C0")
    monkeypatch.setattr(Run, "metrics", lambda _: rows)
    with pytest.raises(StudyError, match="'C0' may be A/C0 or B/C0: write it so"):
        find_case(unet, "C0")


# In a browser


SHOWN = "[...document.querySelectorAll('.slices li')].filter(e => e.getBoundingClientRect().height > 0).map(e => e.id)"
SEEN = "[...document.querySelectorAll('.slices .l1')].filter(e => e.getClientRects().length).length"


def opened(browser, path: Path, **options: object):
    """A page of the viewer, and a list that gets what goes wrong on it or is asked of a network."""
    viewer(notes=["a note"]).save(path)
    page, faults = browser.new_context(**options).new_page(), []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request", lambda each: faults.append(each.url) if each.url[:5] not in ("file:", "data:") else None
    )
    page.goto(path.as_uri(), wait_until="load")
    return page, faults


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("look", ["light", "dark"])
def test_keys_wheel_and_slider_turn_the_slices(browser, width: int, look: str, tmp_path: Path) -> None:
    size = {"width": width, "height": 900}
    page, faults = opened(browser, tmp_path / "v.html", viewport=size, color_scheme=look)
    assert page.evaluate(SHOWN) == ["s3"]  # the middle one with an organ
    for key, slices in (
        ("ArrowRight", "s4"),
        ("ArrowLeft", "s3"),
        ("Home", "s1"),
        ("PageUp", "s5"),
        ("ArrowUp", "s5"),
    ):
        page.keyboard.press(key)
        assert page.evaluate(SHOWN) == [slices], key
    page.locator("input[type=range]").fill("2")
    assert page.evaluate(SHOWN) == ["s2"]
    page.locator("li.shown svg").hover()
    page.mouse.wheel(0, 100)
    page.wait_for_function(f"({SHOWN})[0] === 's3'")
    page.keyboard.press("Home")
    page.locator(".strip").click(position={"x": page.locator(".strip").bounding_box()["width"] - 2, "y": 5})
    assert page.evaluate(SHOWN) == ["s5"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (look == "light")
    assert faults == []


@pytest.mark.browser
def test_boxes_and_a_key_switch_contours(browser, tmp_path: Path) -> None:
    page, _ = opened(browser, tmp_path / "v.html")
    assert page.evaluate(SEEN) == 1
    page.locator("#l1").uncheck(force=True)
    assert page.evaluate(SEEN) == 0
    page.locator("#l1").check(force=True)
    assert page.evaluate(SEEN) == 1
    page.keyboard.press("c")
    assert page.evaluate("getComputedStyle(document.querySelector('.slices .l1')).visibility") == "hidden"


@pytest.mark.browser
def test_a_finger_turns_the_slices(browser, tmp_path: Path) -> None:
    page, faults = opened(
        browser, tmp_path / "v.html", has_touch=True, viewport={"width": 390, "height": 844}
    )
    page.evaluate("""() => {
      const stack = document.querySelector('.slices');
      const touch = (type, x) => stack.dispatchEvent(new TouchEvent(type, {
        touches: [new Touch({identifier: 1, target: stack, clientX: x, clientY: 9})], bubbles: true, cancelable: true}));
      touch('touchstart', 100);
      touch('touchmove', 128);
    }""")
    assert page.evaluate(SHOWN) == ["s5"] and faults == []


@pytest.mark.browser
def test_without_a_script_every_slice_can_be_read_and_boxes_still_switch(browser, tmp_path: Path) -> None:
    page, faults = opened(
        browser, tmp_path / "v.html", java_script_enabled=False, viewport={"width": 390, "height": 844}
    )
    assert page.locator("figure svg").count() == 5 and page.locator("figure svg").last.is_visible()
    line = page.locator("#s3 .l1")
    assert line.is_visible() and not page.locator("nav").is_visible()
    page.locator("label[for=l1]").click()
    assert not line.is_visible() and faults == []


@pytest.mark.browser
def test_axe_finds_nothing_serious_in_it(browser, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for look in ("light", "dark"):
        page, _ = opened(browser, tmp_path / "v.html", color_scheme=look)
        violations = axe.Axe().run(page).response["violations"]
        assert [each["id"] for each in violations if each["impact"] in ("serious", "critical")] == []
