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
    │   ├── ExpiredKeyError       a certificate or policy outside its time
    │   ├── InclusionError        an entry is not proved to be in the log
    │   ├── ConsistencyError      two views of the log do not agree
    │   ├── SplitViewError        two signed checkpoints of one log contradict each other
    │   └── RollbackError         the log is behind a state that it has signed before
    ├── MarkError             a mark cannot be embedded or tested                    exit 2
    │   ├── CapacityError         too few carriers for the evidence asked for
    │   └── KeyMismatchError      secret, reference and commitment do not belong together
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

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """`message` names the input that is at fault; `hint` says what to do next."""
        super().__init__(message)
        self.hint = hint if hint is not None else self.default_hint


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


class ExpiredKeyError(VerificationError):
    """A certificate or policy used outside its time."""

    code = "expired-key"


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
