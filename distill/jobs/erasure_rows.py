"""Rows of erasures that were asked for and are not carried out yet."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Text, text
from sqlalchemy.orm import Mapped, mapped_column

from distill.db import Base, JsonDoc


class Erasure(Base):
    """Written when an object is deleted, removed when nothing of it is left. It refers to no row: the project's own may be what goes."""

    __tablename__ = "erasures"

    object_id: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    """`dataset`, `job` or `project`."""
    project_id: Mapped[str] = mapped_column(Text)
    artifacts: Mapped[bool]
    """Whether the artifacts and models that came from it go too."""
    key_id: Mapped[str | None] = mapped_column(Text)
    """The key that asked for it, for the audit log."""
    counts: Mapped[dict[str, int]] = mapped_column(JsonDoc, server_default=text("'{}'"))
    """How many of each kind have been removed so far: a stop in between loses none."""
    created_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
