"""Every error that Weightmark raises on purpose, as one tree.

    WeightmarkError
    ├── InputError            what was handed in cannot be used                      exit 2
    │   ├── ModelFormatError      a weight file lies about itself, is cut, or changed while read
    │   ├── UnsafeFormatError     a format that can run code or that we cannot read fully
    │   ├── PathEscapeError       a name that leaves its folder or means two files
    │   ├── LimitError            over a cap on size, depth or count
    │   └── DocumentError         JSON, note, proof or policy text that is not exactly its format
    ├── VerificationError     checked, and it does not hold                          exit 1
    │   ├── SignatureError        a signature does not verify, or is of the wrong kind
    │   ├── DigestError           bytes differ from what was signed; a file is missing or was added
    │   ├── UntrustedKeyError     signed by a key that the reader does not trust
    │   ├── RevokedKeyError       signed by a key at a log index from which it is revoked
    │   ├── RetiredKeyError       signed by a key at a log index from which it is out of use
    │   ├── ThresholdError        fewer of an owner's keys signed than the owner asks for
    │   ├── KeyEventError         a change of an owner's keys that does not follow from what was before
    │   ├── StaleViewError        the reader's trust file is too old to know of later revocations
    │   ├── ExpiredKeyError       a certificate or policy outside its time
    │   ├── KeylessError          a signature through Sigstore, and one step of its proof fails
    │   │   ├── IdentityError         another signer than the reader named
    │   │   ├── IssuerError           another issuer vouched for the signer
    │   │   ├── AuthorityError        no trusted certificate authority issued the certificate
    │   │   ├── CertificateLogError   the certificate is not shown to be in a trusted certificate log
    │   │   ├── UntrustedLogError     the signature stands in a log that the reader does not trust
    │   │   ├── LogEntryError         the log entry is about another signature
    │   │   ├── CheckpointError       the log did not sign the checkpoint
    │   │   ├── PromiseError          the log did not promise what the bundle says
    │   │   └── UnprovenTimeError     nothing that the reader trusts says when it was signed
    │   ├── InclusionError        an entry is not proved to be in the log
    │   ├── ConsistencyError      two views of the log do not agree
    │   ├── SplitViewError        two signed checkpoints of one log contradict each other
    │   └── RollbackError         the log is behind a state that it has signed before
    ├── MarkError             a mark cannot be embedded or tested                    exit 2
    │   ├── CapacityError         too few carriers for the evidence asked for
    │   └── KeyMismatchError      secret, reference and commitment do not belong together
    ├── KeyStoreError         a token or key service refused, or is closed           exit 4
    └── RegistryError         the registry could not do it                           exit 4
        ├── ConflictError         it holds something else under this name already    exit 1
        ├── NotAuthorizedError
        ├── RateLimitedError
        ├── UnavailableError      out of reach; safe to retry
        ├── OutcomeUnknownError   it may have happened: ask before retrying
        └── LogHaltedError        the log stopped itself; a person must look

"Not ours" is a verdict, never an exception. A verifier returns what it verified or raises; it never returns False.
Foreign errors are translated once, in the module that owns the dependency, with `raise ... from`.
"""

from __future__ import annotations


class WeightmarkError(Exception):
    """Base of all our errors: a sentence for people, a stable code for programs, and what to do next."""

    code = "error"
    exit_code = 4
    default_hint = "run again with --json and report the document if this looks wrong"

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        """`message` names the input that is at fault; `hint` says what to do next; `code` is finer than the class's."""
        super().__init__(message)
        self.hint = hint if hint is not None else self.default_hint
        if code is not None:
            self.code = code


class InputError(WeightmarkError):
    """What was handed in cannot be used."""

    code = "input"
    exit_code = 2
    default_hint = "check the path and the format of what you passed"


class ModelFormatError(InputError):
    """A weight file lies about itself, is cut short, or changed while it was read."""

    code = "model-format"
    default_hint = "fetch the file again, or convert it with a current safetensors release"


class UnsafeFormatError(InputError):
    """A format that can run code when opened, or that we cannot read fully."""

    code = "unsafe-format"
    default_hint = "convert the model to safetensors on a machine that trusts it"


class PathEscapeError(InputError):
    """A name that leaves its folder, means two files, or cannot be carried to other systems."""

    code = "path-escape"
    default_hint = "rename or remove the entry"


class LimitError(InputError):
    """Over a cap on size, depth or count."""

    code = "limit"
    default_hint = "split the input"


class DocumentError(InputError):
    """JSON, a note, a proof or a policy that is not exactly in its format."""

    code = "document"
    default_hint = "fetch the document again from where it was issued"


class VerificationError(WeightmarkError):
    """Checked, and it does not hold."""

    code = "verification"
    exit_code = 1
    default_hint = "do not use the model; fetch it again from its owner"


class SignatureError(VerificationError):
    """A signature does not verify, or is not of the kind asked for."""

    code = "signature"


class DigestError(VerificationError):
    """Bytes differ from what was signed; or a file is missing, or was added."""

    code = "digest"


class UntrustedKeyError(VerificationError):
    """Signed by a key that the reader does not trust."""

    code = "untrusted-key"
    default_hint = "get the owner's trust file by a way you trust, and pass it with --trust"


class RevokedKeyError(VerificationError):
    """Signed by a key at a log index from which that key is revoked."""

    code = "revoked-key"


class RetiredKeyError(VerificationError):
    """Signed by a key at a log index from which that key is out of use."""

    code = "retired-key"
    default_hint = "sign with a current key of the owner; see `weightmark keys list`"


class ThresholdError(VerificationError):
    """Fewer of an owner's keys signed than the owner asks for."""

    code = "threshold"
    default_hint = "have more of the owner's keys sign, then try again"


class KeyEventError(VerificationError):
    """A change of an owner's keys that does not follow from what was before."""

    code = "key-event"
    default_hint = "make the change again from the present state of the keys; see `weightmark keys list`"


class StaleViewError(VerificationError):
    """The reader's trust file is too old to know of later revocations."""

    code = "stale-view"
    default_hint = "ask the owner for a fresh trust file; he makes one with `weightmark keys export`"


class ExpiredKeyError(VerificationError):
    """A certificate or policy used outside its time."""

    code = "expired-key"


class KeylessError(VerificationError):
    """A signature made through Sigstore, and one step of its proof does not hold."""

    code = "keyless"


class IdentityError(KeylessError):
    """Signed by somebody else than the reader named."""

    code = "identity"
    default_hint = "compare the names; if this is the signer you expect, pass it with --identity exactly as shown"


class IssuerError(KeylessError):
    """The signer's name was vouched for by another issuer than the reader named."""

    code = "issuer"
    default_hint = "compare the addresses; a name means something only together with who vouches for it (--issuer)"


class AuthorityError(KeylessError):
    """No certificate authority that the reader trusts issued the certificate."""

    code = "authority"
    default_hint = "pass the trusted_root.json of the Sigstore instance that the signer used"


class CertificateLogError(KeylessError):
    """The certificate is not shown to be in a certificate log that the reader trusts."""

    code = "certificate-log"
    default_hint = "nobody could have noticed this certificate: ask the signer to sign again"


class UntrustedLogError(KeylessError):
    """The signature stands in a log that the reader does not trust."""

    code = "untrusted-log"
    default_hint = "pass a current trusted_root.json of the Sigstore instance that the signer used"


class LogEntryError(KeylessError):
    """The log entry is about another signature, or of a kind that says nothing about one."""

    code = "log-entry"
    default_hint = "do not use the model; ask its signer for the bundle as it was made"


class CheckpointError(KeylessError):
    """The log's checkpoint is not signed by the log."""

    code = "checkpoint"
    default_hint = "keep the bundle: if the log did sign something else, this is evidence against it"


class PromiseError(KeylessError):
    """The log's promise (signed entry timestamp) is not about this entry at this time."""

    code = "promise"
    default_hint = "do not use the model; ask its signer for the bundle as it was made"


class UnprovenTimeError(KeylessError):
    """Nothing that the reader trusts says when it was signed, so a short-lived certificate proves nothing."""

    code = "no-time"
    default_hint = "ask the signer for a bundle with an RFC 3161 time stamp by an authority of your trusted root"


class InclusionError(VerificationError):
    """An entry is not proved to be in the log."""

    code = "inclusion"
    default_hint = "fetch the proof again from the log"


class ConsistencyError(VerificationError):
    """Two views of the log do not agree."""

    code = "consistency"
    default_hint = "keep both views: together they may prove that the log misbehaved"


class SplitViewError(ConsistencyError):
    """Two signed checkpoints of one log contradict each other."""

    code = "split-view"


class RollbackError(ConsistencyError):
    """The log is behind a state that it has signed before."""

    code = "rollback"
    default_hint = "restore the newer state; if it is lost, only a new log origin may go on"


class MarkError(WeightmarkError):
    """A mark cannot be embedded or tested."""

    code = "mark"
    exit_code = 2
    default_hint = "see `weightmark release --dry-run` for what can carry a mark"


class CapacityError(MarkError):
    """Too few carriers for the evidence asked for."""

    code = "capacity"


class KeyMismatchError(MarkError):
    """Secret, reference and commitment do not belong together."""

    code = "key-mismatch"
    default_hint = "use the reference and the secret of this very release"


class KeyStoreError(WeightmarkError):
    """A key that is kept elsewhere (a token, a cloud's key service) cannot be used; nothing was signed with it."""

    code = "key-store"
    exit_code = 4
    default_hint = "see docs/keys.md, and `weightmark keys list` for where the keys of your home are"


class RegistryError(WeightmarkError):
    """The registry could not do what was asked."""

    code = "registry"
    exit_code = 4
    default_hint = "run `weightmark doctor`"


class ConflictError(RegistryError):
    """The registry holds something else under this name already."""

    code = "conflict"
    exit_code = 1
    default_hint = "see `weightmark list` for what is registered"


class NotAuthorizedError(RegistryError):
    """The caller may not do this."""

    code = "not-authorized"


class RateLimitedError(RegistryError):
    """Too many requests for now."""

    code = "rate-limited"


class UnavailableError(RegistryError):
    """Out of reach or busy; nothing happened, so it is safe to try again."""

    code = "unavailable"
    default_hint = "try again"


class OutcomeUnknownError(RegistryError):
    """It may have happened: ask the registry before trying again."""

    code = "outcome-unknown"
    default_hint = "run the same command again: it asks the registry first"


class LogHaltedError(RegistryError):
    """The log stopped itself before it could sign something wrong; a person must look."""

    code = "log-halted"
    default_hint = "run `weightmark audit` and `weightmark doctor`; do not delete anything"
