"""A task written as other tools want it: the raw data set of nnU-Net v2, with this study's split of the source.

Its format is that of ``documentation/dataset_format.md`` of https://github.com/MIC-DKFZ/nnUNet, version 2.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from desam_lite.data.cases import to_organ_ids
from desam_lite.data.nifti import read_image, read_label, write_volume
from desam_lite.data.tasks import Task
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import write_json
from desam_lite.utils.progress import track


def export_nnunet(
    task: Task,
    out: Path,
    source: str,
    split: Mapping[str, str],
    tested: Mapping[str, Sequence[str]],
    *,
    number: int,
    progress: bool = True,
) -> Path:
    """Write a raw data set of nnU-Net v2 to train on one domain and predict the tested cases of all.

    Scans keep their intensities and grids; labels have the organs 1..K in the order of the manifest. The data set appears under
    its name, ``DatasetNUMBER_TASK_SOURCE`` in ``out``, when it is whole: ``imagesTr``, ``labelsTr``, ``imagesTs``,
    ``dataset.json`` and ``splits_final.json``. Of the split of the source, what trains and what validates is written with
    labels, as its fold 0; the tested cases, by domain, are written without.

    Raises:
        StudyError: The number is taken, nothing is left to validate on, or two cases would get one name.
    """
    if taken := sorted(out.glob(f"Dataset{number:03d}_*")):
        raise StudyError(f"{taken[0]} has the number {number} already: remove it, or give another --number.")
    parts = {part: [case for case, place in split.items() if place == part] for part in ("train", "val")}
    if not parts["val"]:
        raise StudyError(
            f"the split of {source} leaves no case to validate on: nnU-Net needs one, so add patients."
        )
    learnt = [(source, case) for cases in parts.values() for case in cases]
    places = learnt + [(domain, case) for domain, cases in tested.items() for case in cases]
    names = {place: "_".join(place) for place in places}
    if len(set(names.values())) < len(places):
        raise StudyError(
            f"two cases of '{task.manifest.name}' would get one name, DOMAIN_CASE: rename one of them."
        )
    out.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=out))
    try:
        for place in track(places, "exporting cases", enabled=progress):
            _export_case(task, place, building, names[place], "Tr" if place in learnt else "Ts")
        (building / "imagesTs").mkdir(exist_ok=True)
        write_json(building / "dataset.json", _describe_dataset(task, source, len(learnt)))
        fold = {part: [names[source, case] for case in cases] for part, cases in parts.items()}
        write_json(building / "splits_final.json", [fold])
        folder = out / f"Dataset{number:03d}_{task.manifest.name}_{source}"
        building.chmod(0o755)  # what mkdtemp makes is private
        return building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _export_case(task: Task, place: tuple[str, str], folder: Path, name: str, part: str) -> None:
    """Write the image of a case and, for training, its label on the very same grid, both in mm."""
    row = task.slices.rows[place]
    image = read_image(task.root / str(row["image"]))
    write_volume(folder / f"images{part}" / f"{name}_0000.nii.gz", image.data, image.geometry.affine)
    if part == "Tr":
        label = read_label(task.root / str(row["label"]))
        organs, _ = to_organ_ids(label.data, task.manifest, place[0])
        write_volume(folder / "labelsTr" / f"{name}.nii.gz", organs, image.geometry.affine)


def _describe_dataset(task: Task, source: str, cases: int) -> dict[str, object]:
    """Return the content of ``dataset.json``; nnU-Net normalises a channel of the name CT by the window of its organs."""
    domain = task.manifest.domain(source)
    in_hounsfield = (domain.intensity or task.manifest.intensity).window is not None
    return {
        "name": task.manifest.title,
        "description": f"{domain.title}, exported by desam-lite",
        "licence": task.manifest.licence,
        "reference": task.manifest.citation,
        "channel_names": {"0": "CT" if in_hounsfield else domain.modality or "MRI"},
        "labels": {"background": 0}
        | {organ.name: n for n, organ in enumerate(task.manifest.organs, start=1)},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
