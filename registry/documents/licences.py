"""Licence names of model cards as SPDX identifiers, where they are one (the hub writes them in lower case).

Only identifiers of the SPDX licence list 3.2x stand here; everything else keeps its name as free text.
"""

from __future__ import annotations

from typing import Final

_SPDX: Final = (
    "AFL-3.0", "AGPL-3.0-only", "Apache-2.0", "Artistic-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear",
    "BSL-1.0", "CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-NC-2.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0",
    "CC-BY-NC-ND-3.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-2.0", "CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0",
    "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0",
    "ECL-2.0", "EPL-1.0", "EPL-2.0", "EUPL-1.1", "EUPL-1.2", "GFDL-1.3-only", "GPL-2.0-only", "GPL-3.0-only", "ISC",
    "LGPL-2.1-only", "LGPL-3.0-only", "MIT", "MPL-2.0", "MS-PL", "MulanPSL-2.0", "NCSA", "ODbL-1.0", "OFL-1.1",
    "PDDL-1.0", "PostgreSQL", "Unlicense", "WTFPL", "Zlib",
)  # fmt: skip
_OTHER_SPELLINGS: Final = {
    "agpl-3.0": "AGPL-3.0-only",
    "gfdl": "GFDL-1.3-only",
    "gpl-2.0": "GPL-2.0-only",
    "gpl-3.0": "GPL-3.0-only",
    "lgpl-2.1": "LGPL-2.1-only",
    "lgpl-3.0": "LGPL-3.0-only",
    "odc-by": None,
}
_KNOWN: Final = {name.lower(): name for name in _SPDX}


def spdx_id(name: str) -> str | None:
    """The SPDX identifier that a licence's name means, or None."""
    lowered = name.lower()
    return _OTHER_SPELLINGS.get(lowered) or _KNOWN.get(lowered)
