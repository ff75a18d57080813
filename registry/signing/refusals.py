"""Why a model signature is refused: every refusal with its code, its class and what to do, in the order of the checks.

OMS v1.0 lists the steps of verification; `ORDER` is that list as this program takes it. The first step that fails is
the one that is told. What a step checks stands where its data are: `bundle`, `oms`, `certificates`, `statement`,
`manifest`, `files` and `comparison`, which raise from this table and nothing of their own. Codes are stable: programs
read them in `{"error": {"code": ...}}`.
"""

from __future__ import annotations

from dataclasses import dataclass

from watermark.errors import (
    DigestError,
    DocumentError,
    ExpiredKeyError,
    PathEscapeError,
    SignatureError,
    UntrustedKeyError,
    WeightmarkError,
)

_MADE_WRONG = "ask the signer to sign again with a current OMS tool: nobody can mend this without the key"


@dataclass(frozen=True)
class Refusal:
    """One way in which verification fails: its stable code, the kind of error, what to do next."""

    code: str
    kind: type[WeightmarkError]
    hint: str

    def __call__(self, message: str, *, hint: str | None = None) -> WeightmarkError:
        """The error to raise, naming what is at fault; a `hint` that knows more replaces the usual one."""
        return self.kind(message, hint=hint or self.hint, code=self.code)


# 1. The bundle is read strictly (`document` for what is no JSON or has unknown keys), then its media type.
MEDIA_TYPE = Refusal(
    "bundle-media-type", DocumentError, "sign again with a tool that writes Sigstore bundles v0.3, as OMS v1.0 asks"
)
MATERIAL_FORM = Refusal("bundle-material", DocumentError, _MADE_WRONG)
SIGNATURE_COUNT = Refusal(
    "bundle-signatures", DocumentError, "sign again: an OMS bundle holds one signature; more go into claims.jsonl"
)
# 2. The type of the payload, before any signature over it.
PAYLOAD_TYPE = Refusal("payload-type", DocumentError, "this envelope is not a model signature: fetch the right file")
# 3. The signer proves himself in the way that the reader asked for.
WRONG_KIND = Refusal("signing-method", SignatureError, "verify it in the way that it was signed")
UNKNOWN_KEY = Refusal(
    "untrusted-key", UntrustedKeyError, "get the signer's public key by a way you trust, and pass it with --public-key"
)
NO_ROOTS = Refusal("no-roots", UntrustedKeyError, "pass the root certificate of the signer's organisation with --root")
CERTIFICATE_FORM = Refusal("certificate-form", DocumentError, _MADE_WRONG)
CERTIFICATE_EXPIRED = Refusal(
    "certificate-expired", ExpiredKeyError, "ask the signer to sign again, or for a bundle with a time stamp in it"
)
CERTIFICATE_NOT_YET_VALID = Refusal(
    "certificate-not-yet-valid", ExpiredKeyError, "check this machine's clock; if it is right, refuse the model"
)
CERTIFICATE_PATH = Refusal(
    "untrusted-certificate", UntrustedKeyError, "pass the root certificate of the signer's organisation with --root"
)
CERTIFICATE_USAGE = Refusal(
    "certificate-usage", SignatureError, "the signer needs a certificate made for signing (codeSigning)"
)
# 4. The signature over the encoding (PAE) of exactly the payload's bytes.
SIGNATURE = Refusal("signature", SignatureError, "do not use the model; fetch it again from its owner")
OLD_FORM = Refusal(
    "old-form", SignatureError, "ask its owner to sign again, or accept the old form with --allow-legacy"
)
# 5. Only now the payload is parsed (`document` for what is no JSON): statement, predicate, subject.
STATEMENT_TYPE = Refusal("statement-type", DocumentError, _MADE_WRONG)
PREDICATE_TYPE = Refusal(
    "predicate-type", DocumentError, "this statement says something else about the model: fetch its model.sig"
)
SUBJECT = Refusal("subject", DocumentError, _MADE_WRONG)
NO_FILES = Refusal("no-files", DocumentError, "refuse the model: this signature covers nothing")
SERIALIZATION = Refusal("serialization", DocumentError, _MADE_WRONG)
IGNORES_ALL = Refusal("ignores-all", DocumentError, "refuse the model: this signature covers nothing")
RESOURCE_FORM = Refusal("resource-form", DocumentError, _MADE_WRONG)
RESOURCE_NAME = Refusal("path-escape", PathEscapeError, "refuse the model: no honest tool writes such a name")
LISTED_TWICE = Refusal("listed-twice", DocumentError, "refuse the model: two digests of one file cannot both be meant")
# 6. The root digest that is listed is that of the files that are listed.
ROOT = Refusal("root-digest", DocumentError, _MADE_WRONG)
# 7. The files are found as the signature says, without leaving the folder.
LINK = Refusal("link", PathEscapeError, "replace the link by the file itself, or ignore it")
LINK_OUTSIDE = Refusal("link-outside", PathEscapeError, "remove the link, or name the folder that it leads into")
NOT_A_FILE = Refusal("not-a-file", PathEscapeError, "remove or ignore it")
# 8. Every listed file is there, 9. no other is, 10. each has its digest. Names cost nothing, so they come first.
MISSING = Refusal("missing-file", DigestError, "do not use the model; fetch the whole of it again from its owner")
ADDED = Refusal(
    "unsigned-file", DigestError, "remove the files, or accept them with --ignore PATH or --ignore-unsigned-files"
)
CHANGED = Refusal("digest", DigestError, "do not use the model; fetch it again from its owner")

#: The checks in the order in which they are made.
ORDER = (
    MEDIA_TYPE,
    MATERIAL_FORM,
    SIGNATURE_COUNT,
    PAYLOAD_TYPE,
    WRONG_KIND,
    UNKNOWN_KEY,
    NO_ROOTS,
    CERTIFICATE_FORM,
    CERTIFICATE_EXPIRED,
    CERTIFICATE_NOT_YET_VALID,
    CERTIFICATE_PATH,
    CERTIFICATE_USAGE,
    SIGNATURE,
    OLD_FORM,
    STATEMENT_TYPE,
    PREDICATE_TYPE,
    SUBJECT,
    NO_FILES,
    SERIALIZATION,
    IGNORES_ALL,
    RESOURCE_FORM,
    RESOURCE_NAME,
    LISTED_TWICE,
    ROOT,
    LINK,
    LINK_OUTSIDE,
    NOT_A_FILE,
    MISSING,
    ADDED,
    CHANGED,
)
