"""Secrets that the server must be able to read again, sealed with AES-GCM (NIST SP 800-38D) under one key of the installation.

The key is `STILLHOUSE_SEALING_KEY` (32 bytes in base64), else the file `sealing.key` in the home, which is made when it is first needed.
Every process of an installation needs the same one. What is sealed for one purpose cannot be opened for another.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from distill.errors import CannotOpen
from distill.settings import get_settings

FILE = "sealing.key"
_KEY_BYTES, _NONCE_BYTES = 32, 12


def seal(secret: bytes, purpose: str) -> bytes:
    """The sealed secret: a random nonce of 12 bytes, then the ciphertext with its tag. Raises CannotOpen when the key is no key."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(_key()).encrypt(nonce, secret, purpose.encode())


def unseal(sealed: bytes, purpose: str) -> bytes:
    """Raises CannotOpen for what was sealed under another key, for another purpose, or changed since."""
    try:
        return AESGCM(_key()).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], purpose.encode())
    except InvalidTag:
        raise CannotOpen("a stored secret was sealed under another key than this process has: see STILLHOUSE_SEALING_KEY") from None


def _key() -> bytes:
    given = get_settings().sealing_key
    text = given if given is not None else _kept(get_settings().home / FILE)
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        where = "STILLHOUSE_SEALING_KEY" if given is not None else f"{FILE} in the home"
        raise CannotOpen(f"{where} does not hold 32 bytes in base64")
    return key


def _kept(path: Path) -> str:
    """What the file holds; of processes that make it at once, one wins. It is whole from the moment at which it has its name."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{FILE}.{os.getpid()}.{secrets.token_hex(4)}")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text(encoding="ascii").strip()
