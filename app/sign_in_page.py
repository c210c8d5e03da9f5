"""The /sign-in page: a person's browser gives the API key once, and keeps a session instead."""

from __future__ import annotations

from app.pages import Page

# The field has no name and the policy lets no form go anywhere: the key cannot end up in an address.
_BODY = """
<form><label>API key <input type="password" autocomplete="current-password" autofocus required placeholder="sh_…"></label>
<button>Sign in</button> <output role="alert"></output></form>
<p>The first key is <code>api_key</code> in <code>credentials.json</code> of the server's home; who looks after the server makes others.</p>
<p>The key itself is not kept: this browser gets a session that ends after 12 hours, when you sign out, or with the key.</p>
<noscript><p>Signing in needs JavaScript. Programs send the key each time, as <code>Authorization: Bearer sh_…</code>.</p></noscript>
"""
_SCRIPT = """
const form = document.querySelector('form'), told = document.querySelector('output')
async function signIn(key) {
  if (!/^[!-~]+$/.test(key)) return 'This is no API key: it has characters that no key has.'
  const reply = await fetch('/v1/session', {method: 'POST', headers: {authorization: 'Bearer ' + key}}).catch(() => null)
  const said = reply && !reply.ok ? await reply.json().catch(() => null) : null
  if (reply === null || (!reply.ok && !said?.error)) return 'The server does not answer.'  // a proxy in front of it may
  if (!reply.ok) return said.error.message
  location.replace('/docs')
  return ''
}
form.addEventListener('submit', async event => {
  event.preventDefault()
  told.textContent = ''
  told.textContent = await signIn(form.querySelector('input').value.trim())
})
"""

SIGN_IN = Page("Stillhouse", _BODY, _SCRIPT)
