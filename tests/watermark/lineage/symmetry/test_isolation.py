"""Whatever aligns must never see a key: nothing in it imports the marks, or anything that does."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import watermark.lineage
from watermark.lineage import kinship, symmetry

FILES = [*Path(symmetry.__file__).parent.glob("*.py"), Path(kinship.__file__)]


def test_no_file_of_the_alignment_imports_marks():
    assert len(FILES) >= 11
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith(("watermark.marks", "torch", "registry", "cli")) for name in names), file


def test_neither_marks_nor_torch_are_loaded_by_it():
    program = (
        "import sys, watermark.lineage.symmetry, watermark.lineage.kinship; "
        "print(sorted(n for n in sys.modules if n.startswith(('watermark.marks', 'torch'))))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
    assert watermark.lineage.__doc__ is not None
