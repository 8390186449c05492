"""`pst info`: versions, hardware and which extras are installed."""

from __future__ import annotations

import argparse
import re
from importlib import metadata

from pst.cli._common import Verbs

_DISTRIBUTION = "pyramid-sparse-transformer"
_REQUIREMENT = re.compile(r"^([\w.-]+)(?:\[([\w,-]+)\])?.*;.*\bextra == ['\"]([\w-]+)['\"]")


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser("info", help="versions, hardware and installed extras")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:  # noqa: ARG001  # every handler is called with the arguments
    """Print one fact a line."""
    from pst.environment import commit, hardware, versions

    for name, version in versions().items():
        print(f"{name:<12} {version}")
    facts = {"commit": commit(), **hardware()}
    for name, fact in facts.items():
        text = ", ".join(fact) if isinstance(fact, list) else fact
        print(f"{name:<12} {'none' if text in ('', None) else text}")
    print("extras")
    for extra, missing in missing_packages().items():
        print(f"  {extra:<12} {'installed' if not missing else 'missing ' + ', '.join(sorted(missing))}")
    return 0


def missing_packages() -> dict[str, set[str]]:
    """Extra -> those of its packages that are not installed, read off this distribution's own metadata."""
    from pst.environment import version_of

    needs: dict[str, set[str]] = {}
    includes: dict[str, set[str]] = {}
    for requirement in metadata.requires(_DISTRIBUTION) or ():
        match = _REQUIREMENT.match(requirement)
        if match is None:
            continue
        name, inner, extra = match.groups()
        own = name == _DISTRIBUTION
        includes.setdefault(extra, set()).update(inner.split(",") if own else ())
        needs.setdefault(extra, set()).update(() if own else (name,))

    def packages(extra: str) -> set[str]:
        return needs[extra].union(*(packages(other) for other in includes[extra]))

    return {extra: {name for name in packages(extra) if version_of(name) is None} for extra in needs}
