"""One synthetic case: a stream names it, any processor makes it, its organs are those of the real task."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from desam_lite.data.manifest import load_manifest
from desam_lite.synthetic.phantoms import ABDOMEN_SITES, PROSTATE_SITES, Case, Site, make_case
from desam_lite.synthetic.phantoms.making import TASKS
from desam_lite.synthetic.phantoms.trunk import ORGANS


def draw(seed: int, site: Site, matrix: int = 32) -> Case:
    return make_case(site, np.random.default_rng(seed), matrix=matrix)


@pytest.mark.parametrize("site", [PROSTATE_SITES["A"], ABDOMEN_SITES["CT"], ABDOMEN_SITES["MR"]])
def test_one_stream_names_everything(site: Site) -> None:
    first, again, other = draw(1, site), draw(1, site), draw(2, site)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.label, again.label)
    assert first.patient == again.patient != other.patient
    assert first.label.shape != other.label.shape or not np.array_equal(first.label, other.label)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_the_domains_and_organs_of_its_manifest(task: str) -> None:
    manifest = load_manifest(task)
    assert list(manifest.domains) == list(TASKS[task])
    assert manifest.synthetic
    for site in TASKS[task].values():
        labels = set(np.unique(draw(0, site).label)) - {0}
        assert labels <= {organ.label for organ in manifest.organs}


def test_the_synthetic_abdomen_has_the_organs_and_preparation_of_the_real_one() -> None:
    real, made = load_manifest("abdomen"), load_manifest("phantom_abdomen")
    assert made.organs == real.organs
    assert {organ.name: organ.label for organ in made.organs} == ORGANS
    for name in real.domains:
        assert made.preparation(name) == real.preparation(name)
        assert ABDOMEN_SITES[name].hounsfield is (real.preparation(name)["intensity"]["window"] is not None)


OTHER_PROCESSOR = {
    "OPENBLAS_CORETYPE": "Nehalem",  # matrix products without AVX
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",  # and numpy's loops without
}
PINNED = ["193d864a70e78c2e", "3d5962becd5786df", "0e19bd04f60c5f1d"]
"""Hashes of the cases below: whoever changes a bit of them raises `PHANTOM_VERSION`, and finished runs no longer stand."""
HASHES = """
import hashlib, numpy, sys
from desam_lite.synthetic.phantoms import ABDOMEN_SITES, PROSTATE_SITES, make_case
for site in (PROSTATE_SITES["B"], *ABDOMEN_SITES.values()):
    case = make_case(site, numpy.random.default_rng(3), matrix=64)
    print(hashlib.sha256(case.image.tobytes() + case.label.tobytes()).hexdigest()[:16])
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names the features of x86 processors")
def test_every_processor_makes_the_same_bits_as_ever() -> None:
    def hashes(**environment: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", HASHES],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    assert hashes() == PINNED
    assert hashes(**OTHER_PROCESSOR) == PINNED
