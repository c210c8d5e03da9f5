"""`stillhouse login`, `logout`, `me`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from stillhouse import AuthenticationError, Stillhouse, StillhouseError
from stillhouse._config import DEFAULT_BASE_URL, Credentials, forget, login_file, look_up, store
from stillhouse.cli.output import Exit, Json, connected, console, errors, one_line, show_json, stop
from stillhouse.types import Me


def login(
    base_url: Annotated[str, typer.Argument(help="The server's address.", envvar="STILLHOUSE_BASE_URL")] = DEFAULT_BASE_URL,
    as_json: Json = False,
) -> None:
    """Check an address and a key, and store them for this user.

    The key is asked for, or read from standard input when that is no terminal.
    """
    url = base_url.rstrip("/")
    if not url.startswith(("http://", "https://")):
        stop(f"{base_url} is no address: it begins with http:// or https://", Exit.USAGE)
    with one_line():
        credentials = Credentials(url, _read_key(url))
        with Stillhouse(url, credentials.api_key) as client:
            account = _checked(client)
        path = store(credentials)
    if as_json:
        show_json({"base_url": url, "project": account.project, "scopes": account.scopes, "file": str(path)})
    else:
        console.print(f"{url}  {account.project}  {' '.join(account.scopes)}", highlight=False, soft_wrap=True)
    _tell_what_hides_it(credentials)


def _read_key(url: str) -> str:
    asked = typer.prompt(f"API key for {url}", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    key = str(asked).strip()
    if not key:
        stop("no key on standard input", Exit.USAGE)
    return key


def _checked(client: Stillhouse) -> Me:
    """Who the key is. Nothing is stored of a key that the server does not know."""
    try:
        return client.me()
    except AuthenticationError:
        raise StillhouseError(f"{client.base_url} does not know this key: it may be mistyped, expired or deleted") from None


def _tell_what_hides_it(stored: Credentials) -> None:
    """Something nearer may win over what was stored just now."""
    if look_up() == (stored.base_url, stored.api_key):
        return
    named = [name for name in ("STILLHOUSE_BASE_URL", "STILLHOUSE_API_KEY") if os.environ.get(name)]
    nearer = " and ".join(named) or "the credentials.json of a server in STILLHOUSE_HOME or in this folder"
    errors.print(f"[yellow]note[/yellow] {nearer} is used here instead of {login_file()}", highlight=False, soft_wrap=True)


def logout(as_json: Json = False) -> None:
    """Remove the stored key from this machine; on the server it stays as it is."""
    removed = forget()
    if as_json:
        show_json({"logged_out": removed, "file": str(login_file())})
    else:
        console.print("logged out" if removed else "there was no stored login", highlight=False)


def me(as_json: Json = False) -> None:
    """Show the project and scopes of the key in use."""
    with connected() as client:
        account = client.me()
        line = f"{account.project}  {account.key_id}  {' '.join(account.scopes)}"
        show_json(account) if as_json else console.print(line, highlight=False)
