"""Each experiment says once what it trains, and its notebook asks for just that."""

import re
from pathlib import Path

import pytest

from desam_lite.study.plans import EXPERIMENTS, plan_experiment, study_root
from desam_lite.study.profiles import PROFILES, get_profile
from desam_lite.study.workflow.notebooks import read_parameters
from desam_lite.utils.errors import StudyError

ROOT = Path(__file__).resolve().parents[2]
ASKED = re.compile(r'plan_experiment\(\s*\\?"(\w+)\\?"')


def test_every_notebook_that_trains_asks_for_its_own_experiment() -> None:
    asked = {path.stem: ASKED.findall(path.read_text()) for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {name: names for name, names in asked.items() if names} == {name: [name] for name in EXPERIMENTS}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_on_the_task_of_its_notebook(name: str) -> None:
    declared = read_parameters(ROOT / "notebooks" / f"{name}.ipynb")
    assert declared["manifest"][1] == EXPERIMENTS[name].manifest


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "paper"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_chosen_goes_before_what_is_usual(name: str, profile: str) -> None:
    usual = plan_experiment(name, get_profile(profile), "phantom_prostate")
    assert len({spec.source for spec in usual}) <= (get_profile(profile).sources or 6)
    chosen = plan_experiment(
        name, get_profile(profile), "phantom_prostate", "/data", sources=["C"], methods=["desam_b"], seeds=[7]
    )
    assert [(s.source, s.method, s.seed, str(s.data_root)) for s in chosen] == [("C", "desam", 7, "/data")]


def test_few_hospitals_where_the_question_is_not_about_them() -> None:
    teach = get_profile("teach")
    splits, parts = (
        plan_experiment(n, teach, "phantom_prostate") for n in ("domain_splits", "decoder_ablation")
    )
    assert len({s.source for s in splits}) == teach.sources
    assert len({s.source for s in parts}) == teach.few
    assert {s for s in parts if s.variant == "desam"} <= set(
        splits
    )  # what two notebooks need is trained once


def test_an_experiment_with_many_methods_gets_fewer_seeds_unless_they_are_chosen() -> None:
    teach = get_profile("teach")
    dear = plan_experiment("method_comparison", teach, "phantom_prostate")
    assert {s.seed for s in dear} < set(teach.seeds)
    shared = set(plan_experiment("domain_splits", teach, "phantom_prostate"))
    assert {s.label for s in shared & set(dear)} == {s.label for s in shared}  # trained once for both
    chosen = plan_experiment("method_comparison", teach, "phantom_prostate", seeds=[3], methods=["unet"])
    assert [s.seed for s in chosen] == [3]


def test_weights_reach_what_stands_on_them() -> None:
    specs = plan_experiment(
        "decoder_ablation", get_profile("teach"), "phantom_prostate", weights="mine.safetensors"
    )
    assert {spec.weights for spec in specs} == {"mine.safetensors"}


def test_synthetic_data_are_named_after_how_many_there_are() -> None:
    assert study_root("phantom_prostate", "", get_profile("teach")) == Path("data/phantom_prostate_8")
    assert study_root("prostate", "", get_profile("paper")) == Path("data/prostate")
    assert study_root("prostate", "/mine", get_profile("paper")) == Path("/mine")


def test_unknown_experiment() -> None:
    with pytest.raises(StudyError, match="there is no experiment 'nothing': choose from domain_splits"):
        plan_experiment("nothing", get_profile("teach"), "phantom_prostate")
