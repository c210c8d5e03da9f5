"""Code that came in a bundle: whether this server takes it, and which bundle a request means."""

from __future__ import annotations

from collections.abc import Mapping

from app.errors import ApiError
from app.services import Services
from distill.catalog import bundles
from distill.catalog.bundle_rows import Bundle
from distill.db import unit_of_work
from distill.errors import Invalid
from distill.jobs.bundle_use import NOT_ACCEPTED
from distill.rollouts import runtimes


def check_taken(services: Services, python: str, packages: Mapping[str, str], param: str = "") -> None:
    """Raises ApiError and Invalid, 422: the operator takes none; no interpreter here is of that version; a package is missing."""
    settings = services.settings
    if not settings.bundles.accept:
        raise ApiError(422, "bundles_not_accepted", f"{NOT_ACCEPTED[0].upper()}{NOT_ACCEPTED[1:]}.", param=param or None)
    try:
        runtimes.check_packages(settings.pythons, python, packages, settings.bundles.packages)
    except Invalid as error:
        raise Invalid(error.message, code=error.code, param=param or error.param) from None


def bundle_named(services: Services, project_id: str, given: object, param: str) -> Bundle:
    """The project's bundle with an id or a digest, which may run here. Raises ApiError and Invalid."""
    if not isinstance(given, str) or not given:
        raise Invalid(f"{param}: expected the id of a bundle (bundle-…)", param=param)
    with unit_of_work("api") as session:
        row = bundles.by_name(session, project_id, given, param)
        session.expunge(row)
    check_taken(services, row.python, row.packages, param)
    return row
