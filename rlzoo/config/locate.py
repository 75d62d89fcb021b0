"""Where the configuration files are: inside the installed package, or in a checkout."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from rlzoo.core.tasks.ids import canonical, family


@dataclass(frozen=True)
class ConfigFile:
    """A configuration file that exists.

    Args:
        path: The file itself.
        name: How messages call it, ``configs/<agent>/<file>``, wherever it is installed.
    """

    path: Traversable
    name: str


def config_root() -> Traversable | None:
    """Return the folder of all configuration files, or None if there is none.

    A wheel has them as ``rlzoo/_configs``; in a checkout (and so in an editable install) they lie
    in ``configs/`` beside the package.
    """
    package = resources.files("rlzoo")
    for folder in (package / "_configs", package / ".." / "configs"):
        if folder.is_dir():
            return folder
    return None


def config_files(agent: str, env_id: str | None = None) -> list[ConfigFile]:
    """Return the files that exist for an agent, the more special one last.

    These are ``default.yaml``, that of the family of the environment (``atari.yaml``), and that of
    the environment. Ids of the same environment have the same files.

    Args:
        agent: Name in the registry.
        env_id: Environment id; for ``"module:Env-v0"`` the part after the colon names the file.
    """
    root = config_root()
    if root is None:
        return []
    names = ["default.yaml"]
    env_id = canonical(env_id or "")
    if (shared := family(env_id)) is not None:
        names.append(f"{shared}.yaml")
    parts = env_id.split(":")[-1].split("/")
    # The id comes from the user: it must name a file below the folder of the agent.
    if all(part not in ("", ".", "..") and "\\" not in part for part in parts):
        names.append("/".join(parts) + ".yaml")
    found = []
    for name in names:
        file = root.joinpath(agent, *name.split("/"))
        if file.is_file():
            found.append(ConfigFile(file, f"configs/{agent}/{name}"))
    return found
