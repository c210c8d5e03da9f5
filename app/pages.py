"""Pages for people: one file of HTML each, with nothing from elsewhere, and no script but the page's own."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from html import escape

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1d1d1f;background:#fff}
h2{margin-top:2.5rem;border-bottom:1px solid #ddd}details{border:1px solid #ddd;border-radius:6px;margin:.4rem 0;padding:.3rem .8rem}
summary{cursor:pointer}code,pre,input,textarea,div>output{font:13px ui-monospace,monospace}
.verb{display:inline-block;width:4.5rem;font-weight:600}
pre,output{overflow-x:auto;padding:.5rem;background:#8881}output{display:block;white-space:pre-wrap}output:empty{display:none}
input,textarea{box-sizing:border-box;width:100%;padding:.4rem;margin:.2rem 0}button{font:inherit;padding:.2rem 1rem;margin:.2rem 0}
nav{line-height:2}table{border-collapse:collapse;margin:.5rem 0}td,th{text-align:left;padding:.1rem .8rem .1rem 0;vertical-align:top}
@media(prefers-color-scheme:dark){body{color:#eee;background:#17181a}details,h2{border-color:#444}a{color:#8ab4f8}
input,textarea{color:#eee;background:#222;border:1px solid #555}}
"""


@dataclass(frozen=True)
class Page:
    """`body` is HTML; whoever writes it escapes what it did not write itself."""

    title: str
    body: str
    script: str

    @property
    def html(self) -> str:
        wide = '<meta name="viewport" content="width=device-width">'
        head = f'<meta charset="utf-8">{wide}<title>{escape(self.title)}</title><style>{STYLE}</style>'
        return f'<!doctype html><html lang="en">{head}<h1>{escape(self.title)}</h1>{self.body}<script>{self.script}</script></html>'

    @property
    def policy(self) -> str:
        """The Content-Security-Policy under which nothing but this style and this script runs, and asks this server alone."""
        return (
            f"default-src 'none'; script-src {_digest(self.script)}; style-src {_digest(STYLE)}; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )


def _digest(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
