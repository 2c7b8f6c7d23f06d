"""YAML as plain data: no code, no doubled keys, no file too large to be written by hand."""

from pathlib import Path
from typing import Any

import yaml

from desam_lite.utils.errors import StudyError

_MAX_BYTES = 1 << 20


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which takes the last of two equal keys; this one refuses them."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is there twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> Any:
    """Read a manifest's file.

    Returns:
        What it holds: a mapping, a list, a word.

    Raises:
        StudyError: It cannot be read, is too large, or is not plain YAML.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise StudyError(f"manifest {path} is over 1 MB, which no manifest is: give the right file.")
        return _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(
            f"manifest {path} cannot be read ({error}): check the file and its permissions."
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise StudyError(f"manifest {path} is not plain YAML ({reason}): correct it.") from error
