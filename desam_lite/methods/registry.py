"""The one table of methods: what each is called, which settings it uses and what builds it; everything else is read from here.

A method is a class (`desam_lite.training.method`) and one call of `register`. Those of the study are registered by
`desam_lite.methods.catalogue`; yours by your own code, in a notebook, in a module or in an installed package, which names its
module as an entry point of the group ``desam_lite.methods``.
"""

import dis
import hashlib
import importlib
import importlib.util
import inspect
import linecache
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from desam_lite.utils.errors import StudyError

if TYPE_CHECKING:
    from desam_lite.data.slices import CaseSlices
    from desam_lite.methods.run_spec import RunSpec
    from desam_lite.training.method import Predictor

GROUP = "desam_lite.methods"
"""Entry points of an installed package that registers methods when it is imported."""

TRAINING = ("epochs", "batch_size", "learning_rate", "clip", "precision", "train_slices")
"""Settings of what is trained by steps."""
ON_UNET = (*TRAINING, "unet_width", "unet_size", "augmentation")
"""Settings of what is trained on slices with the U-Net."""
ENCODER = ("backbone", "weights")
"""Settings of what has SAM's encoder."""
PROMPTED = (
    *(*ENCODER, "prompt_mode", "embedding_format"),
    *("points_per_side", "iou_threshold", "stability_threshold"),
)
"""Settings of what asks a model with a prompt, on stored embeddings."""
DECODER = (*TRAINING, *PROMPTED, "iou_loss", "iou_weight", "min_area")
"""Settings of what is trained on stored embeddings and asked with a prompt."""
SETTINGS = frozenset((*DECODER, *ON_UNET, "variant", "lora_rank"))
"""All settings of a specification that only some methods use."""


@dataclass(frozen=True)
class Choice:
    """A name that runs are asked for by: a method with some settings fixed.

    Attributes:
        name: As the ``methods`` parameter of a notebook takes it.
        meaning: What it is, a phrase of Markdown for the page of names.
        color: Of its points and lines, as ``#rrggbb``; "" for one of a few spare ones.
        marker: matplotlib's name of its marker.
        fixed: Settings of the run that make it what it is.
    """

    name: str
    meaning: str
    color: str = ""
    marker: str = "o"
    fixed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodEntry:
    """What is known of a method without importing it; called with a specification, it builds it.

    Attributes:
        name: As the specification has it.
        kind: Its class, or where it is: ``module:Class``.
        labels: Its name in tables; for a method with prompts, by prompt mode.
        uses: The optional settings of a specification that change its numbers; the others are left out of its runs' names.
        judges: Whether it predicts, with points, how good its masks are.
    """

    name: str
    kind: "str | type[Predictor]"
    labels: str | Mapping[str, str]
    uses: frozenset[str]
    judges: bool = False

    def __call__(self, spec: "RunSpec", n_organs: int, cases: "Sequence[CaseSlices]") -> "Predictor":
        """Build it from a specification, the number of organs and the training cases."""
        return self.load().build(spec, n_organs, cases)

    def load(self) -> "type[Predictor]":
        """Return its class, imported when it is asked for: it tells the paper, the defaults and what differs."""
        if not isinstance(self.kind, str):
            return self.kind
        module, _, name = self.kind.partition(":")
        found: type[Predictor] = getattr(importlib.import_module(module), name)
        return found

    @property
    def module(self) -> str:
        """Name of the module that its class is in."""
        return self.kind.partition(":")[0] if isinstance(self.kind, str) else self.kind.__module__

    @property
    def own(self) -> bool:
        """Whether it is one of this package, whose meaning `runs.RUN_VERSION` stands for."""
        return _is_own(self.module)

    def code(self) -> str | None:
        """Return what names its code, so that runs of a changed method are not taken for those of the new one.

        Returns:
            Hash of what its class and those it is derived from are made of, outside of this package; None for a method of
            this package.
        """
        if self.own:
            return None
        texts = [_source(part) for part in self.load().__mro__ if not _is_library(part.__module__)]
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]

    def place(self) -> str | None:
        """Return where another process finds its class, as ``module:Class``; None if it lives in this process alone."""
        if isinstance(self.kind, str):
            return self.kind
        module, name = self.kind.__module__, self.kind.__qualname__
        if module == "__main__" or getattr(sys.modules.get(module), name, None) is not self.kind:
            return None
        return f"{module}:{name}" if _can_be_found(module) else None


_PLAIN = (bool, int, float, str, tuple)

METHODS: dict[str, MethodEntry] = {}
"""Name of a method to what builds it."""

CHOICES: dict[str, Choice] = {}
"""The names that runs are asked for by."""

METHOD_CHOICES: dict[str, dict[str, str]] = {}
"""The same names to what they mean in a specification."""


def register(
    name: str,
    kind: "str | type[Predictor]",
    labels: str | Mapping[str, str],
    *,
    uses: Sequence[str],
    choices: Sequence[Choice],
    judges: bool = False,
) -> None:
    """Make a method known: to specifications, profiles, tables, figures and the command line.

    Registering a method of yours again, as running a notebook's cell twice does, replaces it.

    Args:
        name: What it is called in a specification.
        kind: Its class, a `Predictor` or `Method`; or where it is, as ``module:Class``.
        labels: Its name in tables; for a method with prompts, by prompt mode.
        uses: The optional settings it uses, as `ON_UNET` or `DECODER`.
        choices: The names it is asked for by; one with its own name is enough.
        judges: Whether it predicts, with points, how good its masks are.

    Raises:
        StudyError: A name is taken by another method, or a setting does not exist.
    """
    entry = MethodEntry(name, kind, labels, frozenset(uses), judges)
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
    METHODS[name] = entry
    for old in [known for known, meant in METHOD_CHOICES.items() if meant["method"] == name]:
        del CHOICES[old], METHOD_CHOICES[old]
    for choice in choices:
        CHOICES[choice.name] = choice
        METHOD_CHOICES[choice.name] = {"method": name, **choice.fixed}


def portable(name: str) -> dict[str, Any]:
    """Return what `register` takes to make a method known in another process that can import its class."""
    entry = METHODS[name]
    choices = [CHOICES[known] for known, meant in METHOD_CHOICES.items() if meant["method"] == name]
    known = {"labels": entry.labels, "uses": sorted(entry.uses), "judges": entry.judges}
    return {"name": name, "kind": entry.place(), "choices": choices, **known}


def find(name: str | None) -> MethodEntry | None:
    """Return a method by name, looked for in installed packages if nobody has registered it yet; None if there is none."""
    if name is None:
        return None
    if name not in METHODS:
        load_installed()
    return METHODS.get(name)


def load_installed() -> None:
    """Import what installed packages name as their methods, which registers them."""
    for point in entry_points(group=GROUP):
        point.load()


def _is_own(module: str) -> bool:
    return module.partition(".")[0] == "desam_lite"


def _can_be_found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # a module that was made by hand
        return False


def _is_library(module: str) -> bool:
    return _is_own(module) or module.partition(".")[0] in ("builtins", "abc", "typing", "torch")


def _source(kind: type) -> str:
    """Return what a class outside of this package is made of, as text.

    These are the files or notebook cells of its functions and of the functions and classes beside it that they name, and the
    plain values (numbers, texts) that it holds and they name.
    """
    texts: dict[str, None] = {}
    seen: set[Any] = set()
    waiting: list[Any] = [kind]
    while waiting:
        part = waiting.pop()
        if part in seen:
            continue
        seen.add(part)
        if isinstance(part, type):
            inside = dict(vars(part))
            waiting += [
                inspect.unwrap(getattr(value, "__func__", value))
                for value in inside.values()
                if callable(value)
            ]
        elif isinstance(part, FunctionType):
            texts["".join(linecache.getlines(part.__code__.co_filename))] = None
            inside = {name: part.__globals__.get(name) for name in _global_names(part.__code__)}
            waiting += [value for value in inside.values() if _is_beside(value, kind)]
        else:
            continue
        texts[repr([(name, inside[name]) for name in sorted(inside) if isinstance(inside[name], _PLAIN)])] = (
            None
        )
    return "\n".join(sorted(texts))


def _global_names(code: CodeType) -> set[str]:
    """Return the global names that a function reads."""
    names = {str(step.argval) for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return names.union(*(_global_names(part) for part in code.co_consts if isinstance(part, CodeType)))


def _is_beside(value: Any, kind: type) -> bool:
    home = getattr(value, "__module__", None) if isinstance(value, type | FunctionType) else None
    return home is not None and home.partition(".")[0] == kind.__module__.partition(".")[0]
