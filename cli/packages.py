"""Make sure that the three packages are our own before any of them is trusted.

PyPI's `watermark` installs a package of the same name: beside ours it may be loaded instead, or overwrite files of
ours. Looks where the packages would load from and imports none of them; uses the standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

#: A file that only our package of that name has.
OURS = {"watermark": "errors.py", "registry": "signing/keys.py", "cli": "packages.py"}
#: A file that a foreign package of that name brings, also when it was installed over ours.
FOREIGN = {"watermark": "watermark.py"}

FIX = (
    "install weightmark into an environment of its own: python3.11 -m venv weightmark-env, then "
    "weightmark-env/bin/pip install weightmark; or uninstall the other package: pip uninstall watermark"
)


def foreign_package(find: Callable[[str], ModuleSpec | None] = find_spec) -> str | None:
    """Say which of the three packages is not ours and where it loads from; None when all three are."""
    parents: dict[str, Path] = {}
    for name, mark in OURS.items():
        spec = find(name)
        if spec is None:
            return f"the package {name!r} of weightmark is missing"
        if spec.origin is None:
            return f"the package {name!r} has no __init__.py where it loads from; it is not weightmark's own"
        folder = Path(spec.origin).parent
        if not (folder / mark).is_file():
            return f"the package {name!r} loads from {folder}, which is not weightmark's own"
        if name in FOREIGN and (folder / FOREIGN[name]).exists():
            return f"another package was installed over {name!r} in {folder}"
        parents[name] = folder.parent
    if len(set(parents.values())) > 1:
        places = ", ".join(f"{name} from {parent}" for name, parent in parents.items())
        return f"the packages of weightmark load from different places ({places}); one of them is not its own"
    return None
