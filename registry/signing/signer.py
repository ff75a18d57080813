"""What signs: a private key in a file, in a token, or in somebody's cloud, behind one small interface.

`registry.signing.keys.PrivateKey` is one; `registry.keystores` opens the others. Who signs a model, a claim or a log
entry needs no more than this. Knows nothing of where a key is kept, nor whom to trust.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from registry.signing.keys import PublicKey


@runtime_checkable
class Signer(Protocol):
    """A signing key, wherever it is kept. Its signatures verify with `public` as `PublicKey.verify` says."""

    @property
    def algorithm(self) -> str:
        """The name of the algorithm, as in `registry.signing.keys`."""

    @property
    def public(self) -> PublicKey:
        """The public half."""

    def sign(self, message: bytes) -> bytes:
        """Sign the whole message; the store hashes it as its algorithm says.

        A store that is not in this process may be out of reach (UnavailableError) or refuse (KeyStoreError). Whether
        the same message gives the same bytes again is the store's affair: nobody may count on it.
        """
