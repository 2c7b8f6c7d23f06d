"""``desam-lite data``: make, import, check, list, look at and export the data of a task."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from desam_lite.cli.options import (
    DataOption,
    ManifestArgument,
    WorkspaceOption,
    locate_task,
    parse_assignments,
    require_writable,
)
from desam_lite.utils.errors import StudyError

if TYPE_CHECKING:
    from desam_lite.data.manifest import Manifest

_FIRST_NUMBER = 501  # of a data set of nnU-Net; those below are its public ones

data_app = typer.Typer(
    help="Make, import, check, list, look at and export the data of a task.", no_args_is_help=True
)


@data_app.command()
def make(
    task: Annotated[str, typer.Argument(help="Synthetic task, for instance phantom_prostate.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to.  [default: data/TASK]")] = None,
    cases: Annotated[int, typer.Option(min=1, help="Cases per domain.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal data.")] = 0,
    domain: Annotated[list[str] | None, typer.Option(help="Only this domain; may be given again.")] = None,
    towards: Annotated[str | None, typer.Option(help="Domain that --dial leads to.")] = None,
    dial: Annotated[
        list[str] | None,
        typer.Option(
            help="One factor of the shift as name=position, for instance noise=0.5: 0 leaves it, 1 makes it that of "
            "--towards. May be given again."
        ),
    ] = None,
) -> None:
    """Make a synthetic task; what is there already is kept, so an interrupted run goes on.

    Cases beyond --cases that an earlier call made are removed. With --dial the same patients are taken once more, with some of
    the scanner's settings moved: give such data a folder of their own.

    Example: desam-lite data make phantom_prostate --out data/phantom_prostate --cases 10 --seed 0
    Example: desam-lite data make phantom_prostate --out data/noisy --domain A --towards B --dial noise=0.5
    """
    from desam_lite.synthetic.phantoms import make_task

    folder = out or Path("data") / (task if not dial else f"{task}_dialled")
    require_writable(folder, folder=True)
    dials = parse_assignments(dial, "--dial")
    if not all(isinstance(position, int | float) for position in dials.values()):
        raise StudyError("--dial: a position is a number from 0 to 1, for instance noise=0.5.")
    moved: dict[str, Any] = {"towards": towards, "dials": dials} if dial or towards else {}
    removed = make_task(task, folder, cases=cases, seed=seed, domains=domain or None, **moved)
    also = f"; {removed} more of an earlier call removed" if removed else ""
    typer.echo(f"{task}: {cases} cases per domain, seed {seed}, in {folder}{also}")


@data_app.command("import")
def import_(
    layout: Annotated[str, typer.Argument(help="saml, nnunet, chaos, btcv, dicom or folders.")],
    source: Annotated[Path, typer.Argument(help="Folder of the data set as downloaded, or its zip archive.")],
    out: Annotated[Path, typer.Option(help="Folder to write to; it gets DOMAIN/CASE.nii.gz and import.csv.")],
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy unchanged files instead of linking them.")
    ] = False,
) -> None:
    """Import a data set from a layout people have; what is there already is kept, what the source has no longer is removed.

    Unchanged files get a second name for the same bytes (a hard link) where the disk allows it: with --copy, editing the
    import can never touch the source.

    Example: desam-lite data import saml ~/downloads/SAML.zip --out data/prostate
    Example: desam-lite data import dicom ~/export --out data/own
    """
    from desam_lite.data.importers.run import import_data

    require_writable(out, folder=True, inputs=[source])
    summary = import_data(layout, source, out, copy=copy)
    there = ", ".join(f"{domain} {cases}" for domain, cases in summary.cases.items()) or "no case"
    typer.echo(
        f"{summary.out}: {there}; {summary.made} made now. Check with: desam-lite data verify MANIFEST --data {out}"
    )
    if summary.withdrawn:
        typer.echo(f"removed, as the source has them no longer: {', '.join(summary.withdrawn)}")
    for domain, ids in summary.ids.items():
        typer.echo(
            f"labels of {domain}: {ids} (the manifest's label_map brings hospitals that differ together)"
        )
    if summary.faults:
        raise StudyError(
            "\n".join([f"{len(summary.faults)} fault(s), these were left out:", *summary.faults])
        )


@data_app.command()
def export(
    layout: Annotated[str, typer.Argument(help="nnunet.")],
    manifest: ManifestArgument,
    source: Annotated[str, typer.Option(help="Domain to train on.")],
    out: Annotated[Path, typer.Option(help="Folder to write to: the one that nnU-Net calls nnUNet_raw.")],
    data: DataOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the split of the source.")] = 0,
    profile: Annotated[str, typer.Option(help="Whose split: smoke, teach or paper.")] = "teach",
    number: Annotated[
        int | None,
        typer.Option(
            min=1, max=999, help="Of the data set.  [default: 501 for the first domain of the manifest, ...]"
        ),
    ] = None,
    workspace: WorkspaceOption = Path("results"),
) -> None:
    """Write a task as another tool wants it, with this study's split: train on the source, predict imagesTs, then score.

    Example: desam-lite data export nnunet phantom_prostate --source A --out nnUNet_raw
    """
    from desam_lite.data.export import export_nnunet
    from desam_lite.data.tasks import open_task
    from desam_lite.study.profiles import get_profile, plan_domain_splits
    from desam_lite.study.run import scored_cases, split_domain

    if layout != "nnunet":
        raise StudyError(f"there is no layout '{layout}' to export to: use nnunet.")
    require_writable(out, folder=True)
    path, root = locate_task(manifest, data)
    (spec,) = plan_domain_splits(
        get_profile(profile), path, root, sources=[source], methods=["prior"], seeds=[seed]
    )
    opened = open_task(spec.manifest, root, workspace)
    chosen = list(opened.manifest.domains).index(source) + _FIRST_NUMBER if number is None else number
    split, tested = split_domain(spec, opened, source), scored_cases(spec, opened)
    folder = export_nnunet(opened, out, source, split, tested, number=chosen)
    few = {part: sum(place == part for place in split.values()) for part in ("train", "val")}
    typer.echo(
        f"{folder}: {few['train']} cases to train on, {few['val']} to validate on, {sum(map(len, tested.values()))} to predict"
    )


@data_app.command()
def verify(manifest: ManifestArgument, data: DataOption = None) -> None:
    """Check every case of a task; list every fault and warning at once; status 1 when there is a fault.

    Example: desam-lite data verify phantom_prostate --data data/phantom_prostate
    """
    from desam_lite.data.index import build_index, list_faults, require_sound

    task, root = _open_manifest(manifest, data)
    index = build_index(task, root)
    for warning in list_faults(index, "warning"):
        typer.echo(f"warning: {warning}", err=True)
    require_sound(index)
    typer.echo(f"{task.name}: {len(index)} cases in {index['domain'].nunique()} domains, no fault")


@data_app.command("index")
def write_index(
    manifest: ManifestArgument,
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option(help="CSV file to write.  [default: NAME_index.csv]")] = None,
) -> None:
    """Write the table of all cases: paths, hashes, shape, spacing, orientation, voxels per organ, faults.

    Example: desam-lite data index phantom_prostate --data data/phantom_prostate --out index.csv
    """
    from desam_lite.data.index import build_index, list_faults
    from desam_lite.utils.files import atomic_path

    task, root = _open_manifest(manifest, data)
    path = out or Path(f"{task.name}_index.csv")
    require_writable(path, inputs=[Path(manifest)])
    index = build_index(task, root)
    with atomic_path(path) as temporary:
        index.to_csv(temporary, index=False)
    faults = len(list_faults(index))
    typer.echo(
        f"{path}: {len(index)} rows, {faults} with a fault" + (", see its last column" if faults else "")
    )


@data_app.command()
def show(
    manifest: ManifestArgument,
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option(help="PNG file to write.  [default: NAME_sheet.png]")] = None,
    cases: Annotated[int, typer.Option(min=1, max=20, help="Cases per domain.")] = 6,
) -> None:
    """Draw a contact sheet: a row per domain, each case at its most telling slice, organs as contours.

    Example: desam-lite data show phantom_prostate --data data/phantom_prostate --out sheet.png
    """
    from desam_lite.study.report.contact_sheets import contact_sheet
    from desam_lite.utils.files import atomic_path

    task, root = _open_manifest(manifest, data)
    path = out or Path(f"{task.name}_sheet.png")
    if path.suffix != ".png":
        raise StudyError(f"the sheet is a PNG, but --out is {path}: give a name that ends in .png.")
    require_writable(path)
    sheet = contact_sheet(task, root, cases=cases)
    with atomic_path(path) as temporary:
        temporary.write_bytes(sheet.encode_png())
    typer.echo(f"wrote {path}")


def _open_manifest(manifest: str, data: Path | None) -> "tuple[Manifest, Path]":
    from desam_lite.data.manifest import load_manifest

    path, root = locate_task(manifest, data)
    return load_manifest(path), root
