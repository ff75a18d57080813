"""A PKCS#11 token in software, with keys of every kind: one for each process that runs tests, made at first use."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HOUSE = Path(__file__).parent.parent
PLACES = (Path(sys.prefix) / "softhsm", HOUSE / ".venv/softhsm")
LABEL, PIN = "weightmark test", "271828"
SPARE = "spare"
CURVES = {"p256": "secp256r1", "p384": "secp384r1", "p521": "secp521r1", "koblitz": "secp256k1"}


@dataclass(frozen=True)
class SoftToken:
    """A folder with two initialised tokens; `label` holds the keys, SPARE one key and may be destroyed."""

    module: Path
    folder: Path

    def uri(self, key: str, token: str = LABEL) -> str:
        return f"pkcs11:token={token.replace(' ', '%20')};object={key}?module-path={self.module}"


def pin(_: str = "") -> bytes:
    """The PIN of both tokens."""
    return PIN.encode()


@functools.cache
def soft_token() -> SoftToken:
    """The token of this process. Fails, never skips, where SoftHSM is missing."""
    module, tool = _installed()
    folder = Path(tempfile.mkdtemp(prefix="weightmark-softhsm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")  # read by the module once, when it is loaded
    for label in (LABEL, SPARE):
        made = [tool, "--module", module, "--init-token", "--free", "--label", label, "--so-pin", "31415926"]
        subprocess.run([*made, "--pin", PIN], check=True, capture_output=True)
    token = SoftToken(module, folder)
    _make_keys(token)
    return token


def token_folder(token: SoftToken, label: str) -> Path:
    """Where SoftHSM keeps a token: it is gone when this is."""
    named = [path for path in (token.folder / "tokens").iterdir() if label.encode() in _contents(path)]
    assert len(named) == 1
    return named[0]


def _contents(folder: Path) -> bytes:
    return (folder / "token.object").read_bytes()


def _installed() -> tuple[Path, Path]:
    for place in PLACES:
        if (place / "libsofthsm2.so").is_file() and (place / "softhsm2-util").is_file():
            return place / "libsofthsm2.so", place / "softhsm2-util"
    raise AssertionError(f"SoftHSM is in none of {', '.join(map(str, PLACES))}: run  sh scripts/softhsm.sh {PLACES[0]}")


def _make_keys(token: SoftToken) -> None:
    import pkcs11
    from pkcs11 import Attribute, KeyType, Mechanism
    from pkcs11.util.ec import encode_named_curve_parameters

    library = pkcs11.lib(str(token.module))
    for label, names in ((LABEL, CURVES), (SPARE, {"p256": "secp256r1"})):
        with library.get_token(token_label=label).open(rw=True, user_pin=PIN) as session:
            for name, curve in names.items():
                parameters = {Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}
                domain = session.create_domain_parameters(KeyType.EC, parameters, local=True)
                domain.generate_keypair(label=name, id=name.encode(), store=True)
            if label == SPARE:
                continue
            parameters = {Attribute.EC_PARAMS: bytes.fromhex("130c656477617264733235353139")}
            domain = session.create_domain_parameters(KeyType.EC_EDWARDS, parameters, local=True)
            domain.generate_keypair(label="ed25519", store=True, mechanism=Mechanism.EC_EDWARDS_KEY_PAIR_GEN)
            session.generate_keypair(KeyType.RSA, 2048, label="rsa", store=True)
            for name in ("wrap", "other-wrap"):
                session.generate_key(KeyType.AES, 256, label=name, store=True)
            for _ in range(2):
                session.generate_key(KeyType.AES, 256, label="twice", store=True)
