"""Put time stamps where a release, a signature or an evidence file keeps them: asks the authorities, changes bytes.

Every authority that was named must answer, or the job stops with UnavailableError before anything is acknowledged:
what was asked for is never left out in silence. Knows no flags and prints nothing; whether a stamp is believed is
decided by who verifies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli.pending import PendingCopy
from cli.statements import MARK_PREDICATE
from registry.log.proof import read_proof
from registry.signing.claims import read_claims, write_claims
from registry.signing.order import Order, order_of
from registry.signing.signer import Signer
from registry.signing.stamp_claims import (
    checkpoint_stamps,
    make_stamp_claim,
    signature_of,
    stamped_text,
    with_stamps,
)
from registry.signing.statement import Statement, parse_statement
from registry.signing.timestamps import StampAuthority
from registry.signing.trust import TrustPolicy
from watermark.errors import VerificationError

if TYPE_CHECKING:
    from cli.home import Home


@dataclass(frozen=True)
class Stamper:
    """The authorities to ask, in their order; none of them makes every stamping a no-op.

    Stamps by one of `authorities` are verified whole before they are kept.
    """

    urls: tuple[str, ...] = ()
    authorities: tuple[StampAuthority, ...] = ()
    allow_http: bool = False

    def check(self) -> None:
        """Refuse addresses that may not be asked, before any work is done (InputError)."""
        if self.urls:
            from registry.tsa import check_url  # network code costs start-up time: only when used

            for url in self.urls:
                check_url(url, allow_http=self.allow_http)

    def stamp(self, message: bytes) -> tuple[bytes, ...]:
        """One stamp over `message` from each authority; UnavailableError when one of them does not deliver."""
        if not self.urls:
            return ()
        from registry.tsa import request_stamp

        return tuple(request_stamp(url, message, self.authorities, allow_http=self.allow_http) for url in self.urls)


NO_STAMPER = Stamper()


def stamper_of(home: Home, urls: Sequence[str] | None = None) -> Stamper:
    """The authorities to ask: `urls` where they are given (an empty list asks none), else those of the home's settings.

    Raises InputError for an address that may not be asked.
    """
    chosen = tuple(dict.fromkeys(home.tsa.urls if urls is None else urls))
    stamper = Stamper(chosen, home.trust().authorities if chosen else (), home.tsa.allow_http)
    stamper.check()
    return stamper


def stamper_for_signing(home: Path, urls: Sequence[str] | None = None) -> Stamper | None:
    """The authorities to ask for a plain signature, which needs no home; None when nobody is to be asked."""
    from cli.home import SETTINGS, Home

    if (home / SETTINGS).is_file():
        stamper = stamper_of(Home.open(home), urls)
    else:
        stamper = Stamper(tuple(urls or ()))
        stamper.check()
    return stamper if stamper.urls else None


def stamp_bundle(bundle: bytes, stamper: Stamper) -> bytes:
    """The bundle with stamps on its signature; the same bytes where nobody is to be asked."""
    return with_stamps(bundle, stamper.stamp(signature_of(bundle))) if stamper.urls else bundle


def stamp_statements(statements: PendingCopy, stamper: Stamper) -> PendingCopy:
    """The statements of a copy with stamps on the model signature and on the claim that commits to the mark."""
    if not stamper.urls:
        return statements
    lines = []
    for claim in read_claims(statements.claims):
        is_mark = parse_statement(claim.bundle.envelope.payload).predicate_type == MARK_PREDICATE
        lines.append(stamp_bundle(claim.line, stamper) if is_mark else claim.line)
    return replace(statements, model_sig=stamp_bundle(statements.model_sig, stamper), claims=write_claims(lines))


def stamp_checkpoint(claims: bytes, proof: bytes, name: str, root: bytes, key: Signer, stamper: Stamper) -> bytes:
    """The claims of a copy with one more that carries stamps on the checkpoint of its log proof."""
    if not stamper.urls:
        return claims
    checkpoint = read_proof(proof).checkpoint
    stamps = stamper.stamp(stamped_text(checkpoint))
    return claims + write_claims([make_stamp_claim(name, root, checkpoint, stamps, key)])


def order_of_copy(claims: bytes, proof: bytes, trust: TrustPolicy) -> Order:
    """Since when a copy's commitments are independently known, from the side files that the owner keeps.

    A stamp that does not hold makes the order self-asserted with a note: the owner asks about his own records here.
    """
    try:
        return order_of(proof, stamps_of_copy(claims, proof), trust)
    except VerificationError as error:
        return Order(notes=(f"the order of log entry {read_proof(proof).index} does not hold: {error}",))


def stamps_of_copy(claims: bytes, proof: bytes) -> tuple[bytes, ...]:
    """The stamps on the checkpoint of a copy's log proof that its claims bring."""
    statements: list[Statement] = [parse_statement(claim.bundle.envelope.payload) for claim in read_claims(claims)]
    return checkpoint_stamps(statements, read_proof(proof).checkpoint)
