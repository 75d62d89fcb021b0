"""Opening a zip file that a stranger may have made."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath, PureWindowsPath
from typing import BinaryIO

from rlzoo.errors import RefusedError, RlzooError

MAX_MEMBERS = 1000
MAX_BYTES = 8 << 30
_MAX_RATIO = 100  # deflate reaches about 1000 on zeros; SB3 does not compress at all
_SMALL = 1 << 20


@contextmanager
def opened(file: BinaryIO, label: str, max_bytes: int = MAX_BYTES) -> Iterator[zipfile.ZipFile]:
    """Open an archive for reading after :func:`check_members`.

    Args:
        file: Seekable binary file.
        label: Its name, for messages.
        max_bytes: Limit of the unpacked size.

    Raises:
        RefusedError: If it is not a zip file, is damaged (also when noticed while reading inside
            of the block), or breaks a rule.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            check_members(archive, label, max_bytes)
            yield archive
    except (RlzooError, MemoryError):
        raise
    except Exception as error:  # zipfile and torch have a dozen of ways to say "damaged"
        text = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise RefusedError(
            f"{label} is damaged or not a model file: {text}",
            todo="Copy or download it again, or use an earlier checkpoint.",
        ) from error


def check_members(archive: zipfile.ZipFile, label: str, max_bytes: int = MAX_BYTES) -> None:
    """Refuse an archive that would be dangerous to unpack. Nothing is unpacked for that.

    Raises:
        RefusedError: For more than 1000 members, a name that leaves the folder, a duplicate name,
            a link, or sizes that are too large in total or in relation to the packed size.
    """
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise _refused(label, f"has {len(members)} members", f"at most {MAX_MEMBERS}")
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise _refused(label, "has two members of the same name", "each name once")
    total = sum(member.file_size for member in members)
    if total > max_bytes:
        raise _refused(label, f"unpacks to {total} bytes", f"at most {max_bytes}")
    for member in members:
        _check_member(member, label)


def _check_member(member: zipfile.ZipInfo, label: str) -> None:
    name, shown = member.filename, repr(member.filename[:80])
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if absolute or ".." in PureWindowsPath(name).parts or "\\" in name:
        raise _refused(label, f"has the member {shown}", "names inside of the archive")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise _refused(label, f"has the link {shown}", "plain files")
    if member.file_size > max(_SMALL, _MAX_RATIO * member.compress_size):
        raise _refused(
            label,
            f"has {shown}, {member.compress_size} bytes that unpack to {member.file_size}",
            f"{_MAX_RATIO} times as many at most",
        )


def _refused(label: str, what: str, allowed: str) -> RefusedError:
    return RefusedError(
        f"{label} {what}.", f"Allowed: {allowed}.", "Do not use this file; no model needs that."
    )
