"""Rows of bundles: what is known of one without opening it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from distill.db import Base


class Bundle(Base):
    """`digest` is of the document, whose bytes are `blob`; specs name it. `identity` is its client's word for the code in it."""

    __tablename__ = "bundles"
    __table_args__ = (
        UniqueConstraint("project_id", "digest"),
        Index("ix_bundles_project_id_id", "project_id", "id"),
        Index("ix_bundles_project_id_identity", "project_id", "identity"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    digest: Mapped[str] = mapped_column(Text)
    blob: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    python: Mapped[str] = mapped_column(Text)
    modules: Mapped[list[str]] = mapped_column(ARRAY(Text))
    packages: Mapped[dict[str, Any]]
    pickles: Mapped[list[str]] = mapped_column(ARRAY(Text))
    identity: Mapped[str | None] = mapped_column(Text)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    deleted_at: Mapped[datetime | None]
