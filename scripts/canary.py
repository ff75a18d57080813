"""Run the tests with secrets that can be recognised, and look for them in whatever the tests left behind.

    python scripts/canary.py [--keep DIR] [PYTEST ARGUMENT]...

Every owner secret and every private key that is made during the run holds 16 bytes known beforehand, in the processes
that tests start as well, and tests use one passphrase. Afterwards all output (of passed tests too), all files, logs,
databases, evidence files and tracebacks are searched for these bytes as they are, in hex and in each of the three
alignments of base64, and for the passphrase. Prints each file that holds one; exits 1 when one is not allowed to.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKER = b"CANARYsecretBYTE"
PASSPHRASE = b"correct horse battery staple"

#: Runs at the start of each Python process of the tests; the generators it replaces are those of the two libraries.
PLANT = f"""
import secrets
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
MARKER = {MARKER!r}
draw, make = secrets.token_bytes, ec.generate_private_key

def token_bytes(count=None):
    return MARKER + draw(16) if count == 32 else draw(count)

def generate_private_key(curve, backend=None):
    size = curve.key_size // 8 - 1
    return ec.derive_private_key(int.from_bytes(draw(size - 16) + MARKER, "big"), curve)

secrets.token_bytes = token_bytes
ec.generate_private_key = generate_private_key
ed25519.Ed25519PrivateKey.generate = staticmethod(
    lambda: ed25519.Ed25519PrivateKey.from_private_bytes(MARKER + draw(16)))
"""

#: Files in which a test itself puts a secret in the clear, by what stands in their path, and why.
ALLOWED = {
    r"/[^/]*\.pem$": "keys without a password, made by tests for other tools",
    r"/(tsa|ca)[^/]*\.key$": "the same, for a time stamping authority of the tests",
    r"/test_keys_are_listed_without[^/]*/home/owner\.key$": "a key that this test leaves without a password",
    r"/passphrase[^/]*$": "what --passphrase-fd reads",
}


def needles() -> dict[str, bytes]:
    """What to look for, by name."""
    found = {
        "raw": MARKER,
        "hex": MARKER.hex().encode(),
        "HEX": MARKER.hex().upper().encode(),
        "passphrase": PASSPHRASE,
    }
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + MARKER)
        found[f"base64+{shift}"] = coded[(8 * shift + 5) // 6 : len(coded) - 4]
    return found


def holders(folder: Path) -> dict[Path, list[str]]:
    """Files below a folder that hold a canary, and in which form."""
    wanted, found = needles(), {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 28:
            content = path.read_bytes()
            forms = [name for name, needle in wanted.items() if needle in content]
            if forms:
                found[path] = forms
    return found


def main() -> None:
    """Plant, run, search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="leave everything there; else in a folder that is removed")
    args, tests = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = args.keep or Path(temporary)
        plant, left = place / "plant", place / "left"
        plant.mkdir(parents=True)
        left.mkdir()
        (plant / "sitecustomize.py").write_text(PLANT)
        environment = {**os.environ, "PYTHONPATH": str(plant), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        options = ["-rP", "--basetemp", str(left / "files"), "-o", "tmp_path_retention_policy=all"]
        with open(left / "output.txt", "wb") as output:
            command = [sys.executable, "-m", "pytest", "-n", "auto", "--dist", "loadscope", *options, *tests]
            code = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output).returncode
        print((left / "output.txt").read_text(errors="replace").rstrip().rpartition("\n")[2])
        hits = 0
        for path, forms in sorted(holders(left).items()):
            allowed = next((why for pattern, why in ALLOWED.items() if re.search(pattern, str(path))), None)
            hits += allowed is None
            print(f"{'allowed' if allowed else 'HIT'}  {path.relative_to(left)}: {', '.join(forms)}  {allowed or ''}")
    print(f"{hits} hits; pytest ended with {code}")
    raise SystemExit(1 if hits or code else 0)


if __name__ == "__main__":
    main()
