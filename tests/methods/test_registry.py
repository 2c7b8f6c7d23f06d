"""A method is registered once and known everywhere; one from outside trains in the same loop and is named by its code."""

import json
import linecache
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
from four_slices import CONVOLUTIONAL
from small_run import spec_for

from desam_lite.methods import METHODS, Choice, load_predictor, register, registry
from desam_lite.methods.model_card import read_card
from desam_lite.methods.registry import ON_UNET, SETTINGS
from desam_lite.methods.run_spec import RunSpec, make_spec
from desam_lite.methods.unet import UNetMethod
from desam_lite.study.parallel import execute_runs
from desam_lite.study.profiles import METHOD_CHOICES, get_profile, plan_domain_splits
from desam_lite.study.report import style
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import digest

pytestmark = pytest.mark.usefixtures("methods_as_before")
Place = tuple[Path, Path]
ROOT = Path(__file__).resolve().parents[2]
MODULE = """
from desam_lite.methods.unet import UNetMethod


class Mine(UNetMethod):
    paper = "unet"

    def loss(self, module, batch):
        return {factor} * super().loss(module, batch)
"""


class Plain(UNetMethod):
    """A U-Net by another name, defined where worker processes can import it."""

    paper: ClassVar[str] = "unet"

    def draw(self, generator: Any) -> dict[str, Any]:
        """Draw nothing."""
        return {}


def add(name: str, kind: Any, **changes: Any) -> None:
    choice = Choice(name, "mine {cite}`unet`", "#123456", "X")
    register(name, kind, "Mine", **{"uses": ON_UNET, "choices": [choice], **changes})


def a_class(folder: Path, monkeypatch: pytest.MonkeyPatch, factor: float, module: str) -> Any:
    (folder / f"{module}.py").write_text(MODULE.format(factor=factor))
    monkeypatch.syspath_prepend(folder)
    return __import__(module).Mine


def test_what_is_registered_once_is_known_to_specifications_profiles_and_figures() -> None:
    add("mine", Plain)
    (spec,) = plan_domain_splits(
        get_profile("teach"), "phantom_prostate", "d", sources=["A"], methods=["mine"], seeds=[0]
    )
    unet = plan_domain_splits(
        get_profile("teach"), "phantom_prostate", "d", sources=["A"], methods=["unet"], seeds=[0]
    )[0]
    assert spec == unet.model_copy(update={"method": "mine"})  # all the rest as for others on the U-Net
    assert spec.label == "Mine"
    assert (style.method_color("Mine"), style.method_marker("Mine")) == ("#123456", "X")
    assert (
        type(METHODS["mine"](make_spec(**WHERE, method="mine", unet_width=4, unet_size=32), 1, [])) is Plain
    )


WHERE = {"manifest": Path("m.yaml"), "data_root": Path("d"), "source": "A"}


def test_settings_a_method_does_not_name_are_not_part_of_its_runs() -> None:
    add("mine", Plain, uses=("epochs", "unet_width"))
    spec = make_spec(**WHERE, method="mine", unet_width=4, batch_size=3, backbone="vit_h")
    used = {name for name in SETTINGS if getattr(spec, name) is not None}
    assert used == {"epochs", "unet_width"}


def test_the_settings_that_methods_choose_from_are_those_that_may_be_empty() -> None:
    assert {
        name
        for name, info in RunSpec.model_fields.items()
        if type(None) in getattr(info.annotation, "__args__", ())
    } == SETTINGS | {"organs"}  # empty means all of the task's


def test_the_names_of_finished_runs_stay() -> None:
    """Hashes of specifications as they were before methods were registered."""
    kept = json.loads((ROOT / "tests" / "spec_hashes.json").read_text())
    predicted = {
        name: digest(make_spec(**WHERE, **choice).settings())
        for name, choice in METHOD_CHOICES.items()
        if name in kept
    }
    assert predicted == kept


def test_every_method_cites_its_paper_states_its_defaults_and_what_differs() -> None:
    references = (ROOT / "book" / "references.bib").read_text()
    for name, entry in METHODS.items():
        kind = entry.load()
        if name == "prior":  # of this study, with nothing to choose
            assert not kind.paper
            continue
        if name != "masks":  # of a tool that this study knows nothing of
            assert f"{{{kind.paper}," in references, name
        assert kind.defaults_from and kind.differs, name


def test_every_trained_method_is_among_those_that_are_asked_to_learn_four_slices_by_heart() -> None:
    # test_desam_method, test_sam_baselines, test_unet_box; the others: test_unet
    on_sam = {"desam", "sam_finetuned", "samed", "dapsam", "unet_box"}
    assert {name for name, entry in METHODS.items() if "epochs" in entry.uses} == on_sam | set(CONVOLUTIONAL)


def test_registering_again_replaces_ones_own_and_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add("mine", Plain)
    add("mine", Plain, choices=[Choice("other", "")])
    assert "other" in METHOD_CHOICES and "mine" not in METHOD_CHOICES
    with pytest.raises(StudyError, match=r"a method 'unet', of desam_lite\.methods\.unet"):
        add("unet", Plain)
    with pytest.raises(StudyError, match="already is a method 'mine'"):
        add("mine", a_class(tmp_path, monkeypatch, 1, "elsewhere"))
    with pytest.raises(StudyError, match="'unet_aug' already means another"):
        add("yours", Plain, choices=[Choice("unet_aug", "")])
    with pytest.raises(StudyError, match="method 'yours' uses 'colour': there are the settings"):
        add("yours", Plain, uses=("colour",))


def test_only_code_from_outside_names_runs_and_does_by_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {entry.code_hash() for entry in METHODS.values()} == {None}
    codes = []
    for number, factor in enumerate((1, 2)):
        add(f"mine{number}", a_class(tmp_path, monkeypatch, factor, f"module{number}"))
        codes.append(METHODS[f"mine{number}"].code_hash())
    assert None not in codes and codes[0] != codes[1]


CELL = """
def helper():
    return {number}

class Mine(UNetMethod):
    rate = {rate}

    def draw(self, generator):
        return helper()
"""


def from_notebook(**values: float) -> type:
    """The class of a notebook's cell, whose text is in linecache as IPython puts it there."""
    text = CELL.format(**values)
    name, space = f"<cell {values}>", {"UNetMethod": UNetMethod, "__name__": "__main__"}
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    exec(compile(text, name, "exec"), space)  # noqa: S102  as a notebook does
    return space["Mine"]  # type: ignore[return-value]


def code_hash(kind: type) -> str | None:
    return registry.MethodEntry("mine", kind, "Mine", frozenset()).code_hash()


def test_the_cell_of_a_class_and_the_values_it_holds_name_its_code() -> None:
    first = from_notebook(number=1, rate=0.5)
    assert code_hash(first) == code_hash(from_notebook(number=1, rate=0.5))
    others = [from_notebook(number=2, rate=0.5), from_notebook(number=1, rate=0.6)]
    derived = [type("Other", (first,), {"rate": rate, "__module__": "__main__"}) for rate in (0.5, 0.7)]
    codes = [code_hash(kind) for kind in (first, *others, *derived)]
    assert len(set(codes)) == 5 and None not in codes


LIGHT = (
    "data.manifest",
    "methods.catalogue",
    "methods.registry",
    "methods.run_spec",
    "study.plans",
    "study.profiles",
    "cli.main",
)


@pytest.mark.parametrize("module", LIGHT)
def test_settings_and_plans_are_read_without_torch(module: str) -> None:
    program = f"import sys, desam_lite.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_method_of_an_installed_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        def load(self) -> None:
            add("packaged", Plain)

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()] if group == registry.GROUP else [])
    assert make_spec(**WHERE, method="packaged").label == "Mine"
    with pytest.raises(StudyError, match="'method' = 'nowhere'"):
        make_spec(**WHERE, method="nowhere")


def test_a_method_from_outside_trains_in_worker_processes_and_one_of_a_notebook_here(
    tiny_task: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Local(UNetMethod):
        """Known to this process alone, as what is defined in a notebook."""

        def draw(self, generator: Any) -> dict[str, Any]:
            return {}

    outside = a_class(tmp_path, monkeypatch, 1, "outside_of_the_package")
    add("outside", outside)
    add("local", Local)
    assert (
        METHODS["outside"].import_path() == "outside_of_the_package:Mine"
        and METHODS["local"].import_path() is None
    )
    specs = [spec_for(tiny_task, method=name, seed=s) for name in ("outside", "local") for s in (0, 1)]
    runs = execute_runs(specs, tmp_path / "ws", jobs=2, progress=False)
    assert [run.error for run in runs] == [""] * 4
    unet = execute_runs([spec_for(tiny_task, seed=0)], tmp_path / "ws", progress=False)[0]
    for run in (runs[0], runs[2]):  # both are a U-Net: one loop, one result
        pd.testing.assert_frame_equal(
            run.metrics().drop(columns=["run", "method", "label"]),
            unet.metrics().drop(columns=["run", "method", "label"]),
        )
    assert runs[0].info["method_module"] == "outside_of_the_package"
    assert isinstance(load_predictor(runs[0].directory).predictor, outside)
    assert execute_runs(specs, tmp_path / "ws", jobs=2, progress=False) == runs


def test_what_a_method_saved_asks_for_it_where_it_is_not_known(tiny_task: Place, tmp_path: Path) -> None:
    add("mine", Plain)
    (run,) = execute_runs([spec_for(tiny_task, method="mine")], tmp_path, progress=False)
    del METHODS["mine"]
    with pytest.raises(StudyError, match=f"'mine', which is not registered here: import {__name__} first"):
        read_card(run.directory)
