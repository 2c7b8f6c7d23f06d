"""``desam-lite run``, ``score``, ``execute`` and ``check-book``: one run, masks of another tool, one notebook, all pages."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from desam_lite.cli.options import (
    AcceleratorOption,
    DataOption,
    ManifestArgument,
    NotebooksOption,
    WorkspaceOption,
    locate_task,
    parse_assignments,
    require_writable,
)
from desam_lite.methods.registry import MASKS_OF, METHOD_CHOICES
from desam_lite.utils.errors import StudyError

if TYPE_CHECKING:
    from desam_lite.study.run import Run

SeedOption = Annotated[int, typer.Option(min=0, help="Names every random draw.")]
ProfileOption = Annotated[str, typer.Option(help="Settings to start from: smoke, teach, study or paper.")]

SettingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="A setting of the run as name=value, for instance epochs=20; may be given again."
    ),
]


def run(
    manifest: ManifestArgument,
    source: Annotated[str, typer.Option(help="Domain to train on.")],
    data: DataOption = None,
    method: Annotated[
        str,
        typer.Option(
            help=f"What is trained, explained in book/notation.md: {', '.join(METHOD_CHOICES)}; or one of an installed package."
        ),
    ] = "desam_p",
    seed: SeedOption = 0,
    profile: ProfileOption = "teach",
    train_slices: Annotated[
        str,
        typer.Option(
            help="Slices to train on: published (those with an organ but the last, for comparisons), foreground (with an organ), "
            "or all (for a model that is to predict new scans)."
        ),
    ] = "published",
    settings: SettingOption = None,
    workspace: WorkspaceOption = Path("results"),
    accelerator: AcceleratorOption = "auto",
    devices: Annotated[int, typer.Option(min=1, help="How many of them share every batch.")] = 1,
    placement: Annotated[
        str, typer.Option(help="Where embeddings are held in training: auto, device, memory or disk.")
    ] = "auto",
) -> None:
    """Train on one domain, test on all, and print the Dice of each; a finished run is only printed.

    Example: desam-lite run phantom_prostate --data data/phantom_prostate --source A --method unet --set epochs=5
    Example: desam-lite run phantom_prostate --source A --train-slices all
    """
    from desam_lite.data.datasets import Placement
    from desam_lite.study.profiles import get_profile, plan_domain_splits
    from desam_lite.study.run import execute_run

    if accelerator not in ("auto", "cpu", "gpu"):
        raise StudyError(f"there is no accelerator '{accelerator}': use auto, cpu or gpu.")
    if placement not in get_args(Placement):
        raise StudyError(f"there is no placement '{placement}': use {', '.join(get_args(Placement))}.")
    require_writable(workspace, "--workspace", folder=True)
    path, root = locate_task(manifest, data)
    chosen = parse_assignments(settings, "--set")
    _check_settings(chosen)
    chosen |= {"sources": [source], "methods": [method], "seeds": [seed], "train_slices": train_slices}
    specs = plan_domain_splits(get_profile(profile), path, root, **chosen)
    chosen_placement = cast(Placement, placement)
    done = execute_run(
        specs[0], workspace, accelerator=accelerator, devices=devices, placement=chosen_placement
    )
    if done.finished:  # of several processes only the first has the results
        _print_dice(done)


def _print_dice(run: "Run") -> None:
    spec = run.spec
    typer.echo(f"{spec.label} trained on {spec.source}, seed {spec.seed}: {run.directory}")
    dice = run.metrics().groupby(["protocol", "organ", "target"])["dice"].agg(["mean", "std", "count"])
    typer.echo(dice.to_string(float_format="{:.3f}".format))


def score(
    masks: Annotated[
        Path, typer.Argument(help="Folder with a NIfTI mask for each tested case, as DOMAIN_CASE.nii.gz.")
    ],
    manifest: Annotated[str, typer.Option(help="The task's manifest, by name or path.")],
    source: Annotated[str, typer.Option(help="Domain that the tool was trained on.")],
    label: Annotated[str, typer.Option(help="What tables and figures call it, for instance 'nnU-Net v2'.")],
    data: DataOption = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the split it was trained on; numbers several trainings.")
    ] = 0,
    profile: ProfileOption = "teach",
    resample: Annotated[
        bool,
        typer.Option("--resample", help="Bring masks on other grids to their scans' by nearest neighbour."),
    ] = False,
    workspace: WorkspaceOption = Path("results"),
) -> None:
    """Score masks of any other tool: they become a run like all others, under both protocols.

    Tested are all cases of the targets and those of the source that the split of the profile holds out. Organs are 1, 2, ... in
    the order of the manifest. Whatever is wrong with the masks is one listing, and then nothing is scored. Notebooks show the run
    where their parameter `methods` has "masks:LABEL".

    Example: desam-lite score predictions --manifest phantom_prostate --source A --label "nnU-Net v2"
    """
    from desam_lite.study.profiles import get_profile, plan_domain_splits
    from desam_lite.study.tool_masks import score_masks

    require_writable(workspace, "--workspace", folder=True)
    (path, root), method = locate_task(manifest, data), f"{MASKS_OF}{label}"
    (spec,) = plan_domain_splits(
        get_profile(profile), path, root, sources=[source], methods=[method], seeds=[seed]
    )
    done, notes = score_masks(masks, spec, workspace, resample=resample)
    for note in notes:
        typer.echo(note)
    _print_dice(done)
    typer.echo(f'in a notebook: -p \'methods=["unet", "{method}"]\'')


def _check_settings(settings: dict[str, Any]) -> None:
    """Refuse settings that are no fields of a specification, or that have an argument or option of their own."""
    from desam_lite.methods.run_spec import RunSpec

    own = {"manifest": "MANIFEST", "data_root": "--data", "source": "--source"}
    own |= {"method": "--method", "seed": "--seed", "train_slices": "--train-slices"}
    for name in settings:
        if name in own:
            raise StudyError(f"--set {name}: this is given by {own[name]}.")
        if name not in RunSpec.model_fields:
            free = ", ".join(field for field in RunSpec.model_fields if field not in own)
            raise StudyError(f"--set {name}: there is no such setting; choose from {free}.")


def execute_command(
    notebook: Annotated[Path, typer.Argument(help="A notebook of notebooks/.")],
    out: Annotated[Path, typer.Option(help="Where the executed copy goes.")],
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter", "-p", help="A parameter of the notebook as name=value; may be given again."
        ),
    ] = None,
) -> None:
    """Run a notebook with papermill; unknown parameters are refused, and a failed copy is not kept as a page.

    Example: desam-lite execute notebooks/domain_splits.ipynb --out out.ipynb -p profile=smoke
    """
    from desam_lite.study.workflow.notebooks import execute_notebook

    require_writable(out, inputs=[notebook])
    values = _seen_from_here(parse_assignments(parameter, "-p"), notebook)
    typer.echo(f"wrote {execute_notebook(notebook, out, values)}")


def _seen_from_here(values: dict[str, Any], notebook: Path) -> dict[str, Any]:
    """Make paths that start where the user stands absolute: the cells' own start in the root of the notebook's study."""
    from desam_lite.study.plans import project_root

    paths = {name: Path(value) for name, value in values.items() if isinstance(value, str) and value}
    meant: dict[str, Callable[[Path], bool]]
    meant = {"manifest": Path.is_file, "weights": Path.is_file, "data_root": Path.is_dir, "workspace": bool}
    if project_root(notebook) == Path.cwd():
        return values
    return values | {n: str(path.absolute()) for n, path in paths.items() if n in meant and meant[n](path)}


def check_book(
    executed: Annotated[Path, typer.Option(help="Folder with the executed copies.")] = Path("book/executed"),
    notebooks: NotebooksOption = Path("notebooks"),
) -> None:
    """Check that every notebook has an executed copy that is current, without error and small enough for a page.

    Example: desam-lite check-book
    """
    from desam_lite.study.workflow.notebooks import check_executed

    sources = sorted(notebooks.glob("*.ipynb"))
    if not sources:
        raise StudyError(f"there is no notebook in {notebooks}: name their folder with --notebooks.")
    faults = check_executed(executed, sources)
    if faults:
        raise StudyError("\n".join([f"{len(faults)} page(s) are not fit for the book:", *faults]))
    typer.echo(f"{len(sources)} page(s) in {executed} are fit for the book")
