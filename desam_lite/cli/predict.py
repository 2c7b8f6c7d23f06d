"""``desam-lite predict``: the organs of new scans, in the scans' own geometry."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desam_lite.cli.options import AcceleratorOption, require_writable
from desam_lite.utils.errors import StudyError

if TYPE_CHECKING:
    from desam_lite.methods import TrainedModel
    from desam_lite.prediction.files import ScanJob
    from desam_lite.prediction.scan import ScanPrediction


def predict(
    scans: Annotated[
        list[Path],
        typer.Argument(
            help="NIfTI files, or folders of them, or of one DICOM series each; several may be given."
        ),
    ],
    model: Annotated[Path, typer.Option(help="Folder of a finished run, as results/runs/NAME.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Mask to write, in .nii.gz, or of a DICOM series in .dcm (a Segmentation); for several scans a folder, which "
            "gets SCAN_mask.nii.gz."
        ),
    ],
    series: Annotated[
        str | None, typer.Option(help="Which DICOM series, by number or UID, where a folder holds several.")
    ] = None,
    probability: Annotated[
        Path | None,
        typer.Option(
            help="Also write the probabilities as NIfTI (organs as 4th axis); a folder for several scans."
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Also write the IoU that DeSAM-P predicts of each slice as CSV; a folder for several scans."
        ),
    ] = None,
    preview: Annotated[
        Path | None,
        typer.Option(
            help="Also write a page (HTML) with all slices and the organs' contours; a folder for several scans."
        ),
    ] = None,
    largest_part: Annotated[
        bool,
        typer.Option(
            "--largest-part",
            help="Fill gaps of one slice in each organ and keep its largest connected part; for organs of one piece.",
        ),
    ] = False,
    accelerator: AcceleratorOption = "auto",
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Make again what is there already; scans are never overwritten."),
    ] = False,
) -> None:
    """Draw the organs into new scans with a trained model; masks lie on the scans' own grids, organs are 1, 2, ...

    What is there already is skipped; a scan at fault does not stop the others.

    Example: desam-lite predict scan.nii.gz --model results/runs/NAME --out mask.nii.gz --preview mask.html
    Example: desam-lite predict DICOM_FOLDER --series 5 --model results/runs/NAME --out mask.dcm
    """
    from desam_lite.data.dicom import holds_dicom
    from desam_lite.methods import load_predictor
    from desam_lite.prediction.files import plan_jobs, skipped_labels
    from desam_lite.prediction.scan import choose_device, doubt_of_slices, require_iou_head

    places = {"mask": out, "probability": probability, "scores": scores, "preview": preview}
    jobs = plan_jobs(scans, {kind: path for kind, path in places.items() if path is not None})
    if series is not None and not any(holds_dicom(job.scan) for job in jobs):
        raise StudyError(
            f"--series {series} chooses a DICOM series, and no scan here is DICOM: leave it out."
        )
    for folder in filter(Path.is_dir, scans):
        if labels := skipped_labels(folder):
            typer.echo(
                f"warning: {folder}: not predicted, as labels by their names (give one by name if it is a scan): "
                + ", ".join(labels),
                err=True,
            )
    left = [job for job in jobs if overwrite or not job.done]
    if kept := len(jobs) - len(left):
        typer.echo(f"{kept} of {len(jobs)} scans are done already: --overwrite makes them again")
    for kind, path in ((kind, path) for job in left for kind, path in job.outputs.items()):
        require_writable(path, "--out" if kind == "mask" else f"--{kind}")
    if left:
        trained = load_predictor(model, choose_device(accelerator))
        if scores is not None:
            require_iou_head(trained.card)
        if doubt := doubt_of_slices(trained.card):
            typer.echo(f"note: {doubt}", err=True)
        _do(trained, left, series, largest_part)


def _draw_preview(path: Path, prediction: "ScanPrediction", organs: Mapping[str, str], title: str) -> None:
    """Write a page with all slices and the organs' contours."""
    from desam_lite.study.report.case_viewer import CaseViewer

    heading, *notes = [*title.splitlines(), *prediction.warnings]
    drawn, spacing = {"prediction": prediction.labels}, prediction.geometry.spacing
    CaseViewer(prediction.images, drawn, organs, spacing, heading, notes=notes).save(path)


def _do(model: "TrainedModel", jobs: "list[ScanJob]", series: str | None, largest_part: bool) -> None:
    """Do all jobs that can be done, then report the faults of the others."""
    from tqdm import tqdm

    from desam_lite.prediction.files import predict_files
    from desam_lite.prediction.scan import volumes_ml
    from desam_lite.utils.progress import track

    faults = []
    for job in track(jobs, "predicting scans", enabled=len(jobs) > 1):
        try:
            prediction = predict_files(
                model,
                job,
                series=series,
                largest_part=largest_part,
                draw=_draw_preview,
                progress=len(jobs) == 1,
            )
        except StudyError as error:
            faults.append(str(error))
            continue
        for warning in prediction.warnings:
            tqdm.write(f"warning: {job.scan}: {warning}", file=sys.stderr)
        volumes = volumes_ml(prediction, model.card)
        text = ", ".join(f"{n} {name} {ml:.1f} ml" for n, (name, ml) in enumerate(volumes.items(), start=1))
        tqdm.write(f"{job.outputs['mask']}: {text}", file=sys.stdout)
    if faults:
        heading = [f"{len(faults)} of {len(jobs)} scans were not predicted:"] if len(jobs) > 1 else []
        raise StudyError("\n".join([*heading, *faults]))
