"""What stands in the head of a result file: where, with what and when it was made."""

from __future__ import annotations

import datetime
from functools import lru_cache
from typing import Any

from pst.profile.environment import environment, version_of


@lru_cache
def described(packages: tuple[str, ...]) -> dict[str, Any]:
    """Hardware, versions, commit and date of this run; looked up once.

    Args:
        packages: Distributions whose versions matter besides those of `pst.profile.environment.PACKAGES`.
    """
    head: dict[str, Any] = environment()
    found = {name: version_of(name) for name in packages}
    head["versions"] = {**head["versions"], **{name: v for name, v in found.items() if v is not None}}
    return {**head, "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()}
