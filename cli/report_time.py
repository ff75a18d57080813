"""What answers say about time: who stamped what, since when a release is known to others, by whose word.

Rows and document parts that the answers of `sign`, `verify`, `release`, `check` and `evidence` take in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.answer import escaped, table

if TYPE_CHECKING:
    from cli.release import ReleaseResult
    from cli.sign import SignResult
    from cli.tsa_trust import TrustedAuthority
    from cli.verify import VerifyResult
    from registry.signing.order import Order

_OWNER_CLOCK = "owner"
_TIME = "%Y-%m-%dT%H:%M:%SZ"


def rows_of_stamping(result: SignResult) -> list[tuple[object, ...]]:
    """The row of `sign` about its time stamps."""
    return [("time stamps", f"{result.stamps}, on the signature")] if result.stamps else []


def rows_of_time(result: VerifyResult) -> list[tuple[object, ...]]:
    """When it was signed and by whose word, then every stamp that holds."""
    rows: list[tuple[object, ...]] = []
    if result.signed_at is not None:
        whose = "by the owner clock" if result.time_source == _OWNER_CLOCK else f"by {result.time_source}"
        rows.append(("signed at", f"{result.signed_at} ({whose})"))
    elif result.owner is not None:
        rows.append(("signed at", "not said"))
    rows += [("time stamp", f"{stamp.time.strftime(_TIME)} by {stamp.tsa}, on {what}") for what, stamp in result.stamps]
    if result.order is not None:
        rows.append(("order", result.order))
    return rows


def json_of_time(result: VerifyResult) -> dict[str, Any]:
    """What `verify --json` says beyond `signed_at` and `time_source`, where there is anything to say."""
    document: dict[str, Any] = {}
    if result.order is not None:
        document["order"] = result.order
    if result.stamps:
        document["stamps"] = [
            {"tsa": stamp.tsa, "time": stamp.time.strftime(_TIME), "on": what} for what, stamp in result.stamps
        ]
    return document


def rows_of_order(result: ReleaseResult) -> list[tuple[object, ...]]:
    """The row of `release` about order; nothing for a dry run, which logs nothing."""
    return [("order", text_of_order(order)) for order in _orders(result)[:1]]


def json_of_order(result: ReleaseResult) -> dict[str, Any]:
    """The order of `release --json`, that of the copy known last; None for a dry run, which logs nothing."""
    orders = _orders(result)
    return {
        "order": orders[0].kind if orders else None,
        "ordered_at": orders[0].time.strftime(_TIME) if orders and orders[0].time else None,
        "time_source": orders[0].source if orders else None,
    }


def text_of_order(order: Order) -> str:
    """An order for people: whose word, and since when."""
    if order.time is None:
        return f"{order.kind} (nobody but the log's owner says when)"
    return f"{order.kind}, since {order.time.strftime(_TIME)} by {order.source}"


def row_of_order(kind: str, at: str | None, source: str | None) -> tuple[object, ...]:
    """The row of `check` and `evidence` about order."""
    return ("order", f"{kind}, since {at} by {source}" if at else kind)


def text_of_trust_tsa(result: TrustedAuthority) -> tuple[str, ...]:
    """The lines of `keys trust-tsa`."""
    roots = ", ".join(escaped(root) for root in result.roots)
    return (
        f"TRUSTED   time stamps of {escaped(result.name)} ({roots})",
        *table([("trust file", escaped(result.trust))]),
        "  next: have it stamp what you release with --tsa URL, or tsa = [URL] in settings.toml",
        "  not done: others choose whom they believe; they pass its root to verify and evidence with --tsa-root",
    )


def json_of_trust_tsa(result: TrustedAuthority) -> dict[str, Any]:
    """The document of `keys trust-tsa --json`."""
    return {"name": result.name, "roots": list(result.roots), "trust": str(result.trust)}


def _orders(result: ReleaseResult) -> list[Order]:
    """The copies' orders, the weakest first: self-asserted ones, then the latest."""
    orders = [copy.order for copy in result.copies]
    return sorted(orders, key=lambda order: (order.time is not None, -order.time.timestamp() if order.time else 0.0))
