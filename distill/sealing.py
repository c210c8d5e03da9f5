"""Secrets that the server must be able to read again, sealed with AES-GCM (NIST SP 800-38D) under a key of the installation.

The key is `STILLHOUSE_SEALING_KEY` (32 bytes in base64), else in the file `sealing.key` in the home, which is made when it is first needed.
Every process of an installation needs the same one. What is sealed for one purpose cannot be opened for another.

Either place may hold several keys, parted by commas or white space: the first seals, all open. So a key is exchanged while others go on:
`catalog.key_rotation` seals everything anew under the first.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from distill.errors import CannotOpen, KeyNotRead
from distill.settings import get_settings

FILE = "sealing.key"
VARIABLE = "STILLHOUSE_SEALING_KEY"
_KEY_BYTES, _NONCE_BYTES = 32, 12


def seal(secret: bytes, purpose: str) -> bytes:
    """The sealed secret: a random nonce of 12 bytes, then the ciphertext with its tag. Raises CannotOpen when the key is no key."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(_keys()[0]).encrypt(nonce, secret, purpose.encode())


def unseal(sealed: bytes, purpose: str) -> bytes:
    """Raises CannotOpen for what was sealed under another key, for another purpose, or changed since."""
    for key in _keys():
        if (secret := _opened(sealed, purpose, key)) is not None:
            return secret
    raise CannotOpen(f"a stored secret was sealed under another key than this process has: see {VARIABLE}")


def opens(sealed: bytes, purpose: str) -> bool:
    """Whether one of the keys opens it. Raises CannotOpen when one of them is no key."""
    return any(_opened(sealed, purpose, key) is not None for key in _keys())


def sealed_anew(sealed: bytes, purpose: str) -> bytes | None:
    """The same secret under the first key; None where that is its key already. Raises CannotOpen."""
    return None if _opened(sealed, purpose, _keys()[0]) is not None else seal(unseal(sealed, purpose), purpose)


def has_several_keys() -> bool:
    """Whether there is a key to go over from. Raises CannotOpen when one of them is no key."""
    return len(_keys()) > 1


def has_own_file() -> bool:
    """Whether the keys are in the file, where this process may change them, and not given by the environment."""
    return get_settings().sealing_key is None


def put_new_key_first() -> None:
    """From now on every process of this home seals under a new key, and opens what was sealed before. Raises KeyNotRead."""
    path = get_settings().home / FILE
    _replace(path, f"{_new_key()}\n{_kept(path)}\n")


def drop_old_keys() -> None:
    """All but the first. What is sealed under them cannot be opened any more. Raises KeyNotRead."""
    path = get_settings().home / FILE
    _replace(path, f"{_words(_kept(path))[0]}\n")


def _opened(sealed: bytes, purpose: str, key: bytes) -> bytes | None:
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], purpose.encode())
    except InvalidTag:
        return None


def _keys() -> list[bytes]:
    given = get_settings().sealing_key
    return [_key(word, given is not None) for word in _words(given if given is not None else _kept(get_settings().home / FILE))]


def _words(text: str) -> list[str]:
    return re.split(r"[\s,]+", text.strip())


def _key(word: str, given: bool) -> bytes:
    try:
        key = base64.b64decode(word, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise CannotOpen(f"{VARIABLE if given else f'{FILE} in the home'} does not hold 32 bytes in base64")
    return key


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def _kept(path: Path) -> str:
    """What the file holds; of processes that make it at once, one wins. It is whole from the moment at which it has its name."""
    with _told("read"):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _make(path)
        return path.read_text(encoding="ascii").strip()


def _make(path: Path) -> None:
    draft = _draft(path, _new_key())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _replace(path: Path, text: str) -> None:
    """At once, and on the disk before anything is sealed under what it holds. It stays its owner's, who may be another than who calls."""
    with _told("written"):
        draft = _draft(path, text, path.stat())
        os.replace(draft, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _draft(path: Path, text: str, like: os.stat_result | None = None) -> Path:
    draft = path.with_name(f"{FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        try:
            if like is not None:
                os.fchown(file.fileno(), like.st_uid, like.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode))
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            draft.unlink()
            raise
    return draft


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Raises KeyNotRead, without the path, for what the system refuses."""
    try:
        yield
    except OSError as error:
        raise KeyNotRead(f"{FILE} in the home cannot be {what}: {error.strerror}") from error
