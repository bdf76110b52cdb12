"""Who made a bundle: signatures over its `hat.json`, which holds the hash of every other file.

`hat.sig` lies beside it: a line for each key that signed, `ed25519:KEY SIGNATURE`, both in base64.
"""

import base64
import binascii
from pathlib import Path

from submodels.bundle.manifest_file import MANIFEST_FILE, check_regular, manifest_bytes
from submodels.bundle.whole_file import replace_whole
from submodels.errors import BundleError

SIGNATURE_FILE = "hat.sig"
MAX_SIGNATURE_BYTES = 4096
"""Some thirty signatures."""

_KIND = "ed25519:"
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_CONTEXT = b"hat bundle manifest 1\n"
"""Goes before the manifest in what is signed, so that no other signature of a key counts here."""


def signed_bytes(manifest: bytes) -> bytes:
    """What is signed of a bundle whose `hat.json` holds these bytes."""
    return _CONTEXT + manifest


def new_private_key() -> bytes:
    """A fresh ed25519 key (PEM, PKCS #8, not encrypted)."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


class SigningKey:
    """A private key, from its PEM file's bytes.

    Raises:
        BundleError: they are no private ed25519 key, or one with a passphrase.
    """

    def __init__(self, pem: bytes, name: str) -> None:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        expected = f"{name}: expected a private ed25519 key (PEM, without a passphrase)"
        try:
            key = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            # The library's words may quote the file.
            raise BundleError(expected) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise BundleError(f"{expected}, got one of another kind")
        self._key = key

    @property
    def public(self) -> str:
        """The public key as it is pinned, `ed25519:` and base64."""
        return _KIND + _text(self._key.public_key().public_bytes_raw())

    def line(self, manifest: bytes) -> str:
        """A line of `hat.sig` for a manifest."""
        return f"{self.public} {_text(self._key.sign(signed_bytes(manifest)))}"


def sign_bundle(folder: Path, key: SigningKey) -> None:
    """Put a signature of a bundle's `hat.json` beside it; those of other keys stay.

    Raises:
        BundleError: there is no manifest, or a signature file that cannot be read.
        OSError: a file cannot be read or written.
    """
    manifest = manifest_bytes(folder)
    earlier = _signatures(read_signatures(folder), folder)
    others = [f"{public} {_text(each)}" for public, each in earlier if public != key.public]
    text = "\n".join([*others, key.line(manifest)]) + "\n"
    if len(text) > MAX_SIGNATURE_BYTES:
        raise BundleError(f"{folder / SIGNATURE_FILE} is full: take signatures out of it")
    replace_whole(folder / SIGNATURE_FILE, text.encode("ascii"))


def read_signatures(folder: Path) -> bytes | None:
    """What a bundle's `hat.sig` holds; None where there is none.

    Raises:
        BundleError: it is a link out of the folder, too long, or cannot be read.
    """
    path = folder / SIGNATURE_FILE
    if not path.exists() and not path.is_symlink():
        return None
    check_regular(folder, SIGNATURE_FILE)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SIGNATURE_BYTES + 1)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) > MAX_SIGNATURE_BYTES:
        raise BundleError(f"{path} is larger than {MAX_SIGNATURE_BYTES} bytes")
    return content


def check_signature(
    where: Path | str, manifest: bytes, signatures: bytes | None, pinned: str
) -> None:
    """Return if a manifest was signed by the key that is pinned.

    Args:
        where: The bundle, for messages.
        manifest: The bytes of its `hat.json`.
        signatures: Those of its `hat.sig`, or None.
        pinned: The public key, as `ed25519:` and base64.

    Raises:
        BundleError: no signature, none by this key, or one of something else.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    found = _signatures(signatures, where)
    if not found:
        raise BundleError(f"{where} is not signed: expected {SIGNATURE_FILE} by {pinned}")
    own = [signature for public, signature in found if public == pinned]
    if not own:
        who = ", ".join(public for public, _ in found)
        raise BundleError(f"{where} is signed by {who}: expected {pinned}, the key that is pinned")
    key = Ed25519PublicKey.from_public_bytes(_bytes(pinned.removeprefix(_KIND), _KEY_BYTES))
    try:
        key.verify(own[0], signed_bytes(manifest))
    except InvalidSignature as error:
        raise BundleError(
            f"{where}: its {MANIFEST_FILE} is not what {pinned} has signed; it was changed, or "
            f"something was added to the bundle: whoever has the key signs it again (`hat sign`)"
        ) from error


def _signatures(content: bytes | None, where: Path | str) -> list[tuple[str, bytes]]:
    """Public keys as they are pinned, each with its signature; one of each key.

    Raises:
        BundleError: a line that is none.
    """
    found: dict[str, bytes] = {}
    for number, line in enumerate((content or b"").decode("ascii", "replace").splitlines(), 1):
        public, _, signature = line.partition(" ")
        try:
            _bytes(public.removeprefix(_KIND), _KEY_BYTES)
            is_known = public.startswith(_KIND) and public not in found
            made = _bytes(signature, _SIGNATURE_BYTES)
        except ValueError:
            is_known = False
        if not is_known:
            problem = f"line {number} is no signature by another ed25519 key"
            raise BundleError(f"{where}: {SIGNATURE_FILE} is damaged: {problem}")
        found[public] = made
    return list(found.items())


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _bytes(text: str, num_bytes: int) -> bytes:
    """The bytes of a base64 text, which is the only one for them.

    Raises:
        ValueError: it is none, or of another length.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if len(content) != num_bytes or _text(content) != text:
        raise ValueError(f"expected {num_bytes} bytes")
    return content
