"""The card of a trained model, ``model.json`` beside its tensors: what it is, how it was made, what it needs of a scan."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from desam_lite.data.manifest import PALETTE, Intensity, Manifest, Term
from desam_lite.methods.registry import find_method
from desam_lite.methods.run_spec import RunSpec
from desam_lite.training.method import CARD
from desam_lite.utils.errors import StudyError


@dataclass(frozen=True)
class ModelCard:
    """The fields of a card that prediction needs."""

    title: str  # the model in words
    organs: Mapping[str, str]  # name -> colour, in the order of the ids 1..K
    intensity: Intensity  # how the intensities of a scan are prepared: as those of the source were
    spec: RunSpec  # how it was trained
    weights_hash: str = ""  # names the frozen weights by content; empty for a method without
    # name -> what SNOMED CT calls the organ, of those whose manifest said so
    terms: Mapping[str, Term] = field(default_factory=dict)


def make_card(record: Mapping[str, Any], spec: RunSpec, manifest: Manifest) -> dict[str, Any]:
    """Return a card: what the weights are, what they were trained on, under which terms; ``record`` is the run's ``run.json``."""
    organs = f" ({', '.join(spec.organs)})" if spec.organs else ""  # which of several it was trained on
    return {
        "title": f"{spec.label}{organs} trained on {spec.source} of {manifest.title}",
        "organs": [organ.name for organ in manifest.organs],
        "colors": [organ.color for organ in manifest.organs],
        "snomed": {organ.name: organ.term for organ in manifest.organs if organ.term},
        "preparation": manifest.preparation(spec.source),
        "licence_of_data": manifest.licence,
        "run": record,
    }


def read_card(directory: Path) -> ModelCard:
    """Read the card of a run directory; a StudyError where it is missing, damaged, or of a method that is not registered."""
    path = directory / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        run, organs = card["run"], card["organs"]
        method = run["identity"]["settings"]["method"]
        if find_method(method) is None:
            raise StudyError(
                f"the card '{path}' is of the method '{method}', which is not registered here: "
                f"import {run.get('method_module', 'its module')} first."
            )
        colors = card.get("colors") or [PALETTE[n % len(PALETTE)] for n in range(len(organs))]
        return ModelCard(
            title=str(card["title"]),
            organs=dict(zip(organs, colors, strict=True)),
            intensity=Intensity.model_validate(card["preparation"]["intensity"]),
            spec=RunSpec(**run["identity"]["settings"], **run["files"]),
            weights_hash=str(run["identity"].get("weights") or ""),
            terms={name: Term(*term) for name, term in card.get("snomed", {}).items()},
        )
    except OSError as error:
        raise StudyError(
            f"'{directory}' holds no {CARD}: give the folder of a finished run that has a model, as results/runs/NAME."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(
            f"the card '{path}' is damaged or of another version of this package: restore the one that the run wrote."
        ) from error
