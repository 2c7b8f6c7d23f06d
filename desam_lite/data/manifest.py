"""What a task is: its organs, its domains, where their files lie and how their intensities are prepared.

A manifest is one YAML file (``data_manifests/README.md`` documents it). It is data: reading one never runs code.
"""

import difflib
import re
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import digest

# Okabe and Ito's colour-blind safe palette, its grey and black left out: they vanish on medical images.
PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
_FOLDER = "data_manifests"
_MAX_BYTES = 1 << 20
_DOMAIN_NAME = re.compile(r"[^\W_][\w.+-]*")  # letters of any script
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")

Range = tuple[float, float]  # lower and upper bound, in ascending order


class _Strict(BaseModel):
    """A frozen model that refuses unknown keys: a misspelt key must not silently do nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Term(NamedTuple):
    """What SNOMED CT calls an organ: the code of its concept, and the side of a paired one ("left", "right" or "")."""

    snomed: str
    side: str


class Organ(_Strict):
    """One structure that is segmented."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]*$", max_length=60
    )  #: what tables and figures call it
    label: int = Field(ge=1, strict=True)  #: its id in the label files, after ``label_map``; at least 1
    #: ``#rrggbb``; one of a colour-blind safe palette when left out
    color: str = Field(default=PALETTE[0], pattern=r"^#[0-9a-fA-F]{6}$")
    #: code of its concept in SNOMED CT, for DICOM Segmentations; ``left`` or ``right`` after that of a pair
    snomed: str = Field(
        default="", pattern=r"^([1-9][0-9]{5,17}( left| right)?)?$", coerce_numbers_to_str=True
    )

    @property
    def term(self) -> Term | None:
        """Its name in SNOMED CT, where it has one."""
        code, _, side = self.snomed.partition(" ")
        return Term(code, side) if code else None


class Intensity(_Strict):
    """How a volume's intensities are brought to 0..255: between two percentiles, or in a fixed window."""

    #: lower and upper percentile of all voxels of the volume (0..100); for MRI, which has no unit
    percentiles: Range | None = None
    window: Range | None = None  #: lower and upper value in the file's own unit; for CT, in Hounsfield units

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if (self.percentiles is None) == (self.window is None):
            raise ValueError("give either 'percentiles' or 'window'")
        low, high = self.percentiles or self.window or (0.0, 0.0)
        if not low < high:
            raise ValueError(f"the lower bound {low:g} must be below the upper bound {high:g}")
        if self.percentiles and not 0 <= low < high <= 100:
            raise ValueError(f"percentiles lie between 0 and 100, not {low:g} and {high:g}")
        return self


class Domain(_Strict):
    """One site or modality of a task: facts for the reader, and what differs from the task's defaults."""

    title: str  #: what figures call it
    institution: str = ""  #: the hospital or consortium
    dataset: str = ""  #: the collection it comes from
    modality: str = ""  #: for instance ``T2 MRI`` or ``CT``
    vendor: str = ""  #: the scanner's maker
    field_strength: tuple[float, ...] = ()  #: tesla, one number per field strength in use
    coil: str = ""  #: receive coil
    in_plane: Range | None = None  #: range of the pixel spacing, mm
    through_plane: Range | None = None  #: range of the slice spacing, mm
    cases: int | None = Field(default=None, ge=0)  #: number of labelled cases the source says there are
    image: str | None = None  #: pattern that replaces the task's for this domain
    label: str | None = None  #: pattern that replaces the task's for this domain
    #: ids in this domain's files -> ids of ``organs`` (0: background). Ids not listed stay as they are
    label_map: dict[int, int] = {}
    intensity: Intensity | None = None  #: preparation that replaces the task's for this domain


class Manifest(_Strict):
    """A task."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")  #: short name, also of the cache folders
    title: str  #: one line for the reader
    #: what is segmented; prepared labels number them 1..K in this order
    organs: tuple[Organ, ...] = Field(min_length=1, max_length=255)
    domains: dict[str, Domain] = Field(min_length=1)  #: name -> domain, in the order figures show them
    #: pattern of image files below the data root; ``{domain}`` is the domain's name and ``{case}`` any text without a slash.
    #: A pattern that ends in ``.nii.gz`` also finds ``.nii``, and the reverse
    image: str = "{domain}/{case}.nii.gz"
    label: str = "{domain}/{case}_segmentation.nii.gz"  #: pattern of label files
    #: preparation of every domain that does not name its own
    intensity: Intensity = Intensity(percentiles=(0.5, 99.5))
    #: regular expression whose first group, searched in the case id, is the patient; the whole id when left out. Splits keep
    #: the cases of one patient together
    patient: str | None = None
    unique_patients: bool = (
        False  #: whether one patient id in two domains means one person, and so is a fault
    )
    synthetic: bool = False  #: whether the data are made by this package
    citation: str = ""  #: what to cite when showing results on it
    licence: str = ""  #: terms of the data
    obtain: str = ""  #: how to get the data, in words and links

    @field_validator("organs", mode="before")
    @classmethod
    def _fill_in_colors(cls, organs: Any) -> Any:
        if not isinstance(organs, list) or not all(isinstance(organ, dict) for organ in organs):
            return organs
        chosen = [str(organ["color"]).lower() for organ in organs if "color" in organ]
        _refuse_repeats(chosen, "organ colour")
        free = cycle([color for color in PALETTE if color not in chosen] or PALETTE)
        return [organ if "color" in organ else {**organ, "color": next(free)} for organ in organs]

    @field_validator("patient")
    @classmethod
    def _expression_with_a_group(cls, patient: str | None) -> str | None:
        if patient is None:
            return None
        try:
            groups = re.compile(patient).groups
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from error
        if groups < 1:
            raise ValueError("needs a group in parentheses that holds the patient's id")
        return patient

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _refuse_repeats([organ.name for organ in self.organs], "organ name")
        _refuse_repeats([str(organ.label) for organ in self.organs], "organ label")
        labels = {0, *(organ.label for organ in self.organs)}
        for name, domain in self.domains.items():
            if not _DOMAIN_NAME.fullmatch(name):
                raise ValueError(f"domain name {name!r} may hold letters, digits and _ . + - only, no spaces")
            if unknown := sorted(set(domain.label_map.values()) - labels):
                raise ValueError(f"domain {name!r} maps labels to {unknown}, which no organ has")
            for kind in ("image", "label"):
                _check_pattern(self.pattern(name, kind))
            if self.pattern(name, "image") == self.pattern(name, "label"):
                raise ValueError(f"domain {name!r} has one pattern for images and labels")
        return self

    def pattern(self, domain: str, kind: str) -> str:
        """Return the pattern of a domain's ``image`` or ``label`` files, with ``{case}`` left open."""
        own: str | None = getattr(self.domain(domain), kind)
        pattern: str = getattr(self, kind) if own is None else own
        return pattern.replace("{domain}", domain)

    def domain(self, name: str) -> Domain:
        """Return a domain by name; a StudyError where the task has none of it."""
        if name not in self.domains:
            hint = did_you_mean(name, self.domains)
            raise StudyError(
                f"task {self.name!r} has no domain {name!r}: {hint}choose from {', '.join(self.domains)}."
            )
        return self.domains[name]

    def preparation(self, domain: str) -> dict[str, Any]:
        """Return all that changes the prepared slices of a domain, as JSON-like data."""
        own = self.domain(domain)
        return {
            "organs": [[organ.name, organ.label] for organ in self.organs],
            "label_map": sorted(own.label_map.items()),
            "intensity": (own.intensity or self.intensity).model_dump(mode="json"),
        }

    def content_hash(self) -> str:
        """Return 16 hexadecimal digits that name all that changes results; titles and facts do not."""
        kinds = ("image", "label")
        domains = {d: [*(self.pattern(d, kind) for kind in kinds), self.preparation(d)] for d in self.domains}
        return digest({"domains": domains, "patient": self.patient})


def _check_pattern(pattern: str) -> None:
    """Refuse a file pattern that could not find cases, or that could leave the data root."""
    placeholders = set(_PLACEHOLDER.findall(pattern))
    if "case" not in placeholders:
        raise ValueError(f"pattern {pattern!r} lacks {{case}}, the part that differs between cases")
    if others := placeholders - {"case", "domain"}:
        raise ValueError(
            f"pattern {pattern!r} holds {{{sorted(others)[0]}}}, but only {{domain}} and {{case}} exist"
        )
    if pattern.startswith("/") or "\\" in pattern or ".." in Path(pattern).parts:
        raise ValueError(
            f"pattern {pattern!r} must stay below the data root: no leading '/', no '..', no backslash"
        )
    if not pattern.endswith((".nii", ".nii.gz")):
        raise ValueError(f"pattern {pattern!r} must end in .nii or .nii.gz")


def _refuse_repeats(values: list[str], what: str) -> None:
    if repeated := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"{what} {repeated[0]!r} is there twice")


def manifest_folders() -> list[Path]:
    """Return where manifests are looked for by name: below the working folder, then beside the package, or in it (a wheel)."""
    package, checkout = Path(__file__).resolve().parents[1:3]
    own = checkout if (checkout / _FOLDER).is_dir() else package
    return [Path.cwd() / _FOLDER, own / _FOLDER]


def list_manifests() -> dict[str, Path]:
    """Return name -> path of the manifests in :func:`manifest_folders`; the first folder wins."""
    paths = [path for folder in reversed(manifest_folders()) for path in sorted(folder.glob("*.yaml"))]
    return dict(sorted({path.stem: path for path in paths}.items()))


def find_manifest(manifest: Path | str) -> Path:
    """Return the path of a manifest given as a path or by its name; a StudyError where there is none."""
    if Path(manifest).is_file():
        return Path(manifest)
    manifests = list_manifests()
    if str(manifest) not in manifests:
        hint, names = did_you_mean(Path(manifest).stem, manifests), ", ".join(manifests) or "(none)"
        raise StudyError(f"there is no manifest {str(manifest)!r}: {hint}give a path, or one of {names}.")
    return manifests[str(manifest)]


def load_manifest(manifest: Path | str) -> Manifest:
    """Read a manifest, a YAML file or the name of one in ``data_manifests/`` here or in the repository.

    Raises:
        StudyError: No such file, not YAML, or not a manifest; the sentence names every wrong key.
    """
    path = find_manifest(manifest)
    values = _read_yaml(path)
    if not isinstance(values, dict):
        raise StudyError(
            f"manifest {path} is not a mapping of keys: see data_manifests/README.md for an example."
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(_sentence(dict(fault)) for fault in error.errors())
        raise StudyError(
            f"manifest {path}: {faults}. Correct it; data_manifests/README.md lists the keys."
        ) from error


class PlainLoader(yaml.SafeLoader):
    """YAML's safe loader with YAML 1.2's values (to PyYAML 010 is eight, no false, 1e-4 text), which refuses equal keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Return a mapping; raise ConstructorError for a key that is there twice."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is there twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


PlainLoader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.?[0-9]*)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
    ("merge", "<<", ["<"]),
):
    PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})$"), _first)
PlainLoader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def _read_yaml(path: Path) -> Any:
    """Read YAML as plain data: no code, no doubled keys, no file too large to be written by hand."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise StudyError(f"manifest {path} is over 1 MB, which no manifest is: give the right file.")
        return PlainLoader(path.read_text(encoding="utf-8")).get_single_data()
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(
            f"manifest {path} cannot be read ({error}): check the file and its permissions."
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise StudyError(f"manifest {path} is not plain YAML ({reason}): correct it.") from error


def _sentence(fault: dict[str, Any]) -> str:
    """Return one of pydantic's findings in words: where, what, and the likely right key."""
    place = [part for part in fault["loc"] if part != "[key]"]
    where, kind = ".".join(map(str, place)), fault["type"]
    if kind == "extra_forbidden":
        inner = Domain if place[0] == "domains" else Organ
        model: type[BaseModel] = {1: Manifest, 3: inner}.get(len(place), Intensity)
        hint = did_you_mean(str(place[-1]), model.model_fields).partition("?")[0]
        return f"unknown key {where!r}" + (f" ({hint}?)" if hint else "")
    if kind == "missing":
        return f"key {where!r} is missing"
    if kind == "string_type" and fault["loc"][-1] == "[key]":
        return f"{where!r} is not text: write the name in quotes"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return the question whether the name closest to a word is meant, to begin a sentence with; "" where none is close.

    >>> did_you_mean("prostat", ["prostate", "abdomen"])
    "did you mean 'prostate'? Otherwise "
    """
    close = difflib.get_close_matches(word, list(names), n=1)
    return f"did you mean {close[0]!r}? Otherwise " if close else ""
