"""Whether a library is there, and in a version that fits; it is not imported to find out."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path


def is_installed(module: str) -> bool:
    """Whether a module is there; a folder without code, as an uninstall leaves behind for its caches, is none."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None


def check_installed(user: str, module: str, extra: str) -> None:
    """See whether a module can be imported, before something deeper fails without it.

    Args:
        user: What needs it, for the message.
        module: Its name.
        extra: Ours, which installs it.

    Raises:
        ImportError: It cannot; the message says what installs it.
    """
    if not is_installed(module):
        raise ImportError(f"{user} needs {module}, which is not installed: {install_extra(extra)}", name=module)


def install_extra(extra: str) -> str:
    """The command that installs an extra of ours into this environment."""
    return f"{pip()} install 'pyramid-sparse-transformer[{extra}]'"


def pip() -> str:
    """This environment's pip: by its name where that is what the shell finds, else by way of this Python."""
    found = shutil.which("pip")
    ours = found is not None and Path(found).parent == Path(sys.executable).parent
    return "pip" if ours else f"{program('python')} -m pip"


def program(name: str) -> str:
    """A program of this environment, which need not be the shell's, quoted for the shell."""
    path = Path(sys.executable).with_name(name)
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


class HostError(ImportError):
    """A host is not what pst was written for: its version has moved what an adapter hooks into."""


@dataclass(frozen=True)
class Range:
    """The versions of a host that are tested.

    Attributes:
        host: Name of its distribution, and of our extra.
        oldest: First that fits, as (major, minor) or with more parts.
        beyond: First that is not known to.

    Examples:
        >>> str(Range("timm", (1, 0), (2, 0)))
        'timm ≥ 1.0 and < 2.0'
    """

    host: str
    oldest: tuple[int, ...]
    beyond: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.host} ≥ {'.'.join(map(str, self.oldest))} and < {'.'.join(map(str, self.beyond))}"

    def has(self, version: str) -> bool:
        """Whether a version, as a distribution names its own, is one of them."""
        numbers = re.match(r"\d+(\.\d+)+", version)
        return numbers is not None and self.oldest <= tuple(map(int, numbers[0].split("."))) < self.beyond

    def check(self, user: str) -> None:
        """See whether a version in the range is installed.

        Args:
            user: What needs it, for the message.

        Raises:
            ImportError: It is missing or another one; the message names the range and what installs it.
        """
        remedy = install_extra(self.host)
        try:
            found = metadata.version(self.host)
        except metadata.PackageNotFoundError:
            said = f"{user} needs {self}, which is not installed: {remedy}"
            raise ImportError(said, name=self.host) from None
        if not self.has(found):
            raise ImportError(f"{user} needs {self}, found {found}: {remedy}", name=self.host)
