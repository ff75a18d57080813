"""What an evidence file shows about time: since when its mark is known to others, and which threshold that earns.

The lower threshold needs all three: an independent word on the very commitment used, a date of the suspect after it,
and a draw by the other side. The date is the claimant's statement; whoever verifies may know an earlier one. Stamps on
the file itself say when it was made, and change no number.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cli.evidence_file import EvidenceBody, stamped_bytes
from cli.order import DEFAULT_THRESHOLD, Threshold, read_date, threshold_for
from cli.outcome import CHALLENGED_DRAW
from cli.report_time import text_of_order
from cli.signing_time import text_of_time
from registry.signing.order import Order, order_of
from registry.signing.timestamps import judge_stamps
from registry.signing.trust import TrustPolicy
from watermark.errors import DocumentError, InclusionError, InputError


@dataclass(frozen=True)
class EvidenceTiming:
    """The order of the commitment, the threshold that follows, and what to tell about both."""

    order: Order
    threshold: Threshold
    reasons: tuple[str, ...]


def judge_timing(
    body: EvidenceBody, stamps: tuple[bytes, ...], signed: bytes, trust: TrustPolicy, known_date: str | None
) -> EvidenceTiming:
    """Judge every stamp in and on a file whose signature was verified; `stamps` are those on the file (`signed`).

    Raises what a proof, or a stamp of a trusted authority, that does not hold raises.
    """
    if "release" not in body.proofs:
        raise InclusionError("the evidence file brings no log proof of the release entry")
    order = order_of(body.proofs["release"], body.stamps, trust)
    on_file = judge_stamps(stamps, stamped_bytes(signed), trust.authorities, what="the evidence file")
    reasons = [f"order of the mark: {text_of_order(order)}", *order.notes]
    reasons += [f"the file was stamped at {text_of_time(one.time)} by {one.tsa}" for one in on_file.verified]
    date = _suspect_date(body, known_date)
    threshold = threshold_for(order, date) if body.draw == CHALLENGED_DRAW else DEFAULT_THRESHOLD
    if threshold.is_lower and date is not None:
        reasons.append(
            f"the lower threshold of {-threshold.log2_p:.0f} bits applies if the suspect is no older than "
            f"{text_of_time(date)} (source: {body.suspect.get('source')}); a date before the stamp would lift it to 128"
        )
    return EvidenceTiming(order, threshold, (*reasons, *on_file.notes))


def _suspect_date(body: EvidenceBody, known: str | None) -> datetime | None:
    """The earliest date of the suspect that was named, by the file or by the reader."""
    stated = body.suspect.get("date")
    dates = [] if known is None else [read_date(known)]
    if isinstance(stated, str):
        try:
            dates.append(read_date(stated, what="the suspect's date"))
        except InputError as error:
            raise DocumentError(
                f"the evidence file: {error}", hint="ask the claimant for a file with a date"
            ) from error
    return min(dates, default=None)
