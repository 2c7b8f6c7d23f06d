"""The graph on a real Slurm of one machine: a node's daemon is killed in the middle, and the numbers are those of a local run."""

import time
from pathlib import Path

import pandas as pd
import pytest
from small_cluster import SmallCluster, why_not
from small_study import reproduce, write_study

WORDS = ("--profile", "smoke", "-p", "sources=[A]", "-p", "methods=[prior,unet]")


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_cluster_that_loses_a_node_ends_with_the_numbers_of_one_machine(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    study = write_study(tmp_path_factory.mktemp("study"))
    profile = study / "workflow" / "profiles" / "slurm" / "config.yaml"
    # Without an accounting daemon, and without a patient person: squeue tells of jobs, and is asked soon.
    quick = profile.read_text().replace("status-checks: 20", "status-checks: 2")
    profile.write_text(quick + "slurm-status-command: squeue\nseconds-between-status-checks: 2\n")
    with SmallCluster(tmp_path_factory.mktemp("c")) as cluster:
        process = reproduce(study, *WORDS, "--executor", "slurm")
        lost = _kill_the_node_that_runs(study, cluster)
        out, _ = process.communicate(timeout=600)
        assert process.returncode == 0, out
    assert lost
    log = (study / "results" / "graph" / "snakemake.log").read_text()
    assert "attempts=1" in log  # what was lost was tried again, with twice the memory
    again = reproduce(study, *WORDS, "--workspace", "local")
    assert again.wait(timeout=600) == 0
    assert _tables(study / "results") == _tables(study / "local")
    assert "All 2 runs are finished." in (study / "pages" / "domain_splits.ipynb").read_text()


def _kill_the_node_that_runs(study: Path, cluster: SmallCluster) -> str:
    """Kill the daemon of the node where the first run is, and what it runs; start it again later."""
    for _ in range(3000):
        if list((study / "results" / "graph" / "running").glob("run-*.json")):
            node = cluster.ask("squeue", "--states=RUNNING", "--noheader", "--format=%N").split()[0]
            cluster.kill_node(node)
            time.sleep(1)
            cluster.start_node(node)
            return node
        time.sleep(0.1)
    return ""


def _tables(workspace: Path) -> dict[str, str]:
    return {
        path.parent.name: pd.read_csv(path).to_csv(index=False)
        for path in (workspace / "runs").glob("*/metrics.csv")
    }
