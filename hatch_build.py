"""What PyPI shows of the project: its links, and a README whose links and pictures work outside of the repository.

Both need the repository's web address, ``repository`` in pyproject.toml under ``tool.hatch.metadata.hooks.custom``, the
one place that holds it. While that is empty there are no project links, and README's relative links are plain text.
"""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

# a block of code, which stays as it is; or a link or picture whose target is neither an address nor a heading
CODE_OR_LINK = re.compile(r"^```.*?^```$|(!?)\[([^\]]*)\]\((?!https?://|mailto:|#)([^)]+)\)", re.MULTILINE | re.DOTALL)


class ProjectPage(MetadataHookInterface):
    """Fills ``urls`` and ``readme``; both name the tag of the version that is built."""

    def update(self, metadata: dict) -> None:
        """Called by hatchling with the ``project`` table."""
        repository, tag = self.config["repository"].rstrip("/"), f"v{metadata['version']}"
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(readme, repository, tag)}
        metadata["urls"] = urls(repository, tag)


def urls(repository: str, tag: str) -> dict[str, str]:
    """The links beside a project's description; none without an address."""
    if not repository:
        return {}
    return {
        "Source": repository,
        "Documentation": f"{repository}/blob/{tag}/docs/index.md",
        "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


def absolute(readme: str, repository: str, tag: str) -> str:
    """``readme`` with each relative link absolute; without an address, its text alone."""

    def replaced(found: re.Match[str]) -> str:
        picture, text, target = found.groups()
        if target is None:
            return found[0]
        if not repository:
            return f"*{text}*" if picture else text
        return f"{picture}[{text}]({repository}/{'raw' if picture else 'blob'}/{tag}/{target})"

    return CODE_OR_LINK.sub(replaced, readme)
