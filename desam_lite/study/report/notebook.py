"""What every notebook of the study needs: a start, and data that are ready."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desam_lite.data.manifest import load_manifest
from desam_lite.study.plans import project_root, study_root
from desam_lite.utils.errors import StudyError

if TYPE_CHECKING:
    from desam_lite.data.tasks import Task
    from desam_lite.study.profiles import Profile


def start() -> None:
    """Begin a notebook: work in the root of the repository, and show failures a reader can act on as one sentence."""
    os.chdir(project_root(Path.cwd()))
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if shell is not None:
        shell.set_custom_exc((StudyError,), _show_sentence)  # type: ignore[no-untyped-call]


def _show_sentence(shell: Any, kind: type, error: BaseException, _traceback: Any, **_: Any) -> list[str]:
    shell._showtraceback(kind, error, [str(error)])  # what the shell itself does with the long form
    return [str(error)]


def is_interactive() -> bool:
    """Whether a person runs this notebook, so that widgets can be moved; a batch job takes no input, and says so."""
    from IPython.core.getipython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False))


def open_study(manifest: Path | str, data_root: str, workspace: Path | str, profile: "Profile") -> "Task":
    """Return the task of a notebook, ready to be used; synthetic data that are not there yet are made."""
    from desam_lite.data.tasks import open_task

    task = load_manifest(manifest)
    root = study_root(manifest, data_root, profile)
    if task.synthetic:
        from desam_lite.synthetic.phantoms import make_task

        make_task(task.name, root, cases=profile.cases)
    elif not root.is_dir():
        raise StudyError(f"there are no data at {root}: pass data_root. How to get them: {task.obtain}")
    return open_task(manifest, root, workspace)
