"""Cannot be imported."""

raise RuntimeError("the licence in /srv/secret/licence.key has run out")
