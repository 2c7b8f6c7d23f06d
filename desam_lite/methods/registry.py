"""The table of methods: name, settings and class of each. Specifications, profiles, tables, figures and commands read it.

A method is a class (`desam_lite.training.method`) and one call of `register`. The methods of the study are registered by
`desam_lite.methods.catalogue`; yours by your own code, in a notebook, in a module or in an installed package, which names its
module as an entry point of the group ``desam_lite.methods``. Neither this module nor the catalogue imports a method or torch.
"""

import hashlib
import importlib
import inspect
import linecache
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import FunctionType
from typing import Any

from desam_lite.utils.errors import StudyError

GROUP = "desam_lite.methods"
"""Entry points of an installed package that registers methods when it is imported."""

TRAINING = ("epochs", "patience", "batch_size", "learning_rate", "clip", "precision", "train_slices")
"""Settings of what is trained by steps."""
ON_UNET = (*TRAINING, "unet_width", "unet_size", "augmentation")
"""Settings of what is trained on slices with the U-Net."""
ENCODER = ("backbone", "weights")
"""Settings of what has SAM's encoder."""
OF_GRID = ("points_per_side", "iou_threshold", "stability_threshold", "selection")
"""Settings of predictions by a grid of points: other prompts use none of them."""
OF_IOU_HEAD = ("iou_loss", "iou_weight")
"""Settings of training by points."""
PROMPTED = (*ENCODER, "prompt_mode", "embedding_format", *OF_GRID[:3])
"""Settings of what is prompted, on stored embeddings."""
DECODER = (*TRAINING, *PROMPTED, *OF_IOU_HEAD, "mask_loss", "selection", "test_prompt", "min_area")
"""Settings of what is trained on stored embeddings and prompted."""
SETTINGS = frozenset((*DECODER, *ON_UNET, "variant", "lora_rank", "tool"))
"""All settings of a specification that only some methods use."""
MASKS_OF = "masks:"
"""Begins the name by which scored masks of another tool are chosen; their label follows."""


@dataclass(frozen=True)
class Choice:
    """A name by which runs are chosen: a method with some settings fixed."""

    name: str  #: as the ``methods`` parameter of a notebook takes it
    meaning: str  #: what it is, a phrase of Markdown for the page of names
    color: str = ""  #: of its points and lines, as ``#rrggbb``; "" for one of a few spare ones
    marker: str = "o"  #: matplotlib's name of its marker
    fixed: Mapping[str, str] = field(default_factory=dict)  #: settings of the run that make it what it is


@dataclass(frozen=True)
class MethodEntry:
    """A registered method; called with a specification, it builds it."""

    name: str  #: as the specification has it
    implementation: str | type[Any]  #: its class, or where that is: ``module:Class``
    labels: str | Mapping[str, str]  #: its name in tables; for a method with prompts, by prompt mode
    #: the optional settings of a specification that change its numbers; the others are left out of its runs' names
    uses: frozenset[str]
    predicts_iou: bool = False  #: whether it predicts, with points, the IoU of its masks

    def __call__(self, spec: Any, n_organs: int, cases: Sequence[Any]) -> Any:
        """Build its `Predictor` from a `RunSpec`, the number of organs and the training cases (`CaseSlices`)."""
        return self.load().build(spec, n_organs, cases)

    def load(self) -> type[Any]:
        """Import and return its class, which has ``paper``, ``defaults_from`` and ``differs``."""
        if not isinstance(self.implementation, str):
            return self.implementation
        module, _, name = self.implementation.partition(":")
        loaded: type[Any] = getattr(importlib.import_module(module), name)
        return loaded

    @property
    def module(self) -> str:
        """Name of the module that its class is in."""
        place = self.implementation
        return place.partition(":")[0] if isinstance(place, str) else place.__module__

    @property
    def own(self) -> bool:
        """Whether it is a method of this package."""
        return self.module.partition(".")[0] == "desam_lite"

    def code_hash(self) -> str | None:
        """Return 16 digits that name the code of a method from outside, so that a changed method is trained again; None for ours.

        It covers the whole text of every file or notebook cell that defines a function of the class, or of a class outside of
        this package and torch that it derives from, and the plain values (numbers, texts, tuples) that these classes hold.
        What they call from other files or cells is not covered: keep helpers in the file or cell of the class. The meaning of
        this package's own methods is that of `run_spec.RUN_VERSION`.
        """
        if self.own:
            return None
        libraries = ("desam_lite", "builtins", "abc", "typing", "torch")
        content = []
        for part in self.load().__mro__:
            if part.__module__.partition(".")[0] in libraries:
                continue
            members = {name: inspect.unwrap(value) for name, value in vars(part).items()}
            functions = [value for value in members.values() if isinstance(value, FunctionType)]
            files = {function.__code__.co_filename for function in functions}
            content += sorted("".join(linecache.getlines(file)) for file in files)
            values = {n: v for n, v in members.items() if n[:2] != "__" and isinstance(v, _PLAIN)}
            content.append(repr(sorted(values.items())))
        return hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]

    def import_path(self) -> str | None:
        """Return ``module:Class``, by which another process imports its class; None if only this process has it."""
        if isinstance(self.implementation, str):
            return self.implementation
        module, name = self.implementation.__module__, self.implementation.__qualname__
        home = sys.modules.get(module)
        is_file = module != "__main__" and getattr(home, "__spec__", None) is not None
        return f"{module}:{name}" if is_file and getattr(home, name, None) is self.implementation else None


_PLAIN = (bool, int, float, str, tuple)

METHODS: dict[str, MethodEntry] = {}
"""The registered methods by name."""
CHOICES: dict[str, Choice] = {}
"""The names by which runs are chosen."""
METHOD_CHOICES: dict[str, dict[str, str]] = {}
"""What these names set in a specification: the method and what is fixed."""


def register(
    name: str,
    implementation: str | type[Any],
    labels: str | Mapping[str, str],
    *,
    uses: Sequence[str],
    choices: Sequence[Choice],
    predicts_iou: bool = False,
) -> None:
    """Add a method to the table. Registering one of yours again, as running a notebook's cell twice does, replaces it.

    Args:
        name: What it is called in a specification.
        implementation: Its class, a `Predictor` or `Method`; or where that is, as ``module:Class``.
        labels: Its name in tables; for a method with prompts, by prompt mode.
        uses: The optional settings it uses, as `ON_UNET` or `DECODER`.
        choices: The names by which it is chosen; one with its own name is enough.
        predicts_iou: Whether it predicts, with points, the IoU of its masks.

    Raises:
        StudyError: A name is taken by another method, or a setting does not exist.
    """
    entry = MethodEntry(name, implementation, labels, frozenset(uses), predicts_iou)
    unknown = sorted(entry.uses - SETTINGS)
    if unknown:
        raise StudyError(
            f"method '{name}' uses '{unknown[0]}': there are the settings {', '.join(sorted(SETTINGS))}."
        )
    taken = METHODS.get(name)
    if taken is not None and (taken.own or taken.module != entry.module):
        raise StudyError(f"there already is a method '{name}', of {taken.module}: choose another name.")
    for choice in choices:
        if METHOD_CHOICES.get(choice.name, {}).get("method", name) != name:
            raise StudyError(f"'{choice.name}' already means another method: choose another name.")
    for old in _choices_of(name):
        del CHOICES[old.name], METHOD_CHOICES[old.name]
    METHODS[name] = entry
    for choice in choices:
        CHOICES[choice.name] = choice
        METHOD_CHOICES[choice.name] = {"method": name, **choice.fixed}


def export_registration(name: str) -> dict[str, Any]:
    """Return the arguments with which another process, which can import the class, registers a method."""
    fields = {**vars(METHODS[name]), "implementation": METHODS[name].import_path()}
    return {**fields, "choices": _choices_of(name)}


def _choices_of(method: str) -> list[Choice]:
    return [CHOICES[name] for name, fixed in METHOD_CHOICES.items() if fixed["method"] == method]


def choice_settings(name: str) -> dict[str, str] | None:
    """Return what a name by which runs are chosen sets in a specification; None if there is no such name."""
    if name.startswith(MASKS_OF):
        return {"method": "masks", "tool": name.removeprefix(MASKS_OF)}
    return METHOD_CHOICES.get(name)


def find_method(name: str | None) -> MethodEntry | None:
    """Return a method by name, after looking for it in installed packages as well; None if there is none."""
    if name is not None and name not in METHODS:
        load_installed()
    return METHODS.get(name or "")


def load_installed() -> None:
    """Import what installed packages name as their methods, which registers them."""
    for point in entry_points(group=GROUP):
        point.load()
