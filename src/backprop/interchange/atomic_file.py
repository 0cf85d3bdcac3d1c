"""A new file in the place of an old one, in one step.

The new file is made in the same directory. If the system can do it, the file has no name at first (O_TMPFILE), so a
process that is killed leaves nothing behind. The file is flushed to the disk and then replaces the old one in one step;
after that the directory is flushed. Whatever happens, the path names the whole old file or the whole new one.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress


def replace(named: str, data: bytes) -> None:
    """Write the file of that name, new or in the place of an old one.

    Parameters
    ----------
    named : str
    data : bytes

    Raises
    ------
    OSError
        If the file cannot be written: the old one is then as it was.
    ValueError
        If the name is that of a pipe or a device.
    """
    if os.path.basename(named) in ("", os.curdir, os.pardir):  # realpath would turn "new/" into the name of a file
        raise IsADirectoryError(errno.EISDIR, "path: expected the name of a file, got that of a directory", named)
    try:
        os.stat(os.path.dirname(named) or os.curdir)  # refuse "missing/../name", which realpath would shorten
        path = os.path.realpath(named)  # the target of a symbolic link, as for open
        old_mode = _mode_of_old(path)
        folder, name = os.path.split(path)
        temporary = f".backprop-{os.urandom(8).hex()}.tmp"  # not name + suffix, which may be too long
        directory = None
        if os.open in os.supports_dir_fd:
            directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        else:  # Windows: whole paths, and directories cannot be flushed
            temporary, name = os.path.join(folder, temporary), path
        try:
            _write_new(directory, temporary, data, old_mode)
            os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            if directory is not None:
                _flush_directory(directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise
        finally:
            if directory is not None:
                os.close(directory)
    except OSError as error:
        raise OSError(error.errno, error.strerror, named) from error  # name the path of the caller


def _mode_of_old(path: str) -> int | None:
    """The permissions of the file that will be replaced, None if there is none."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise ValueError(f"path: expected a regular file or a new one, got {path!r}, a device, a pipe or a socket")
    if not os.access(path, os.W_OK):  # a rename would not check this
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return mode & 0o777


def _write_new(directory: int | None, temporary: str, data: bytes, mode: int | None) -> None:
    """Write a file of that name in the directory and flush it. It gets the name last, if the system can do that."""
    unnamed = None if directory is None else _open_unnamed(directory)
    if unnamed is not None:
        try:
            _fill(unnamed, data, mode)
            # Some file systems and sandboxes have no links. Other errors occur again below, with a name.
            with suppress(OSError):  # with a dir_fd, Python follows the link to the open file
                source = f"/proc/self/fd/{unnamed}"
                os.link(source, temporary, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=True)
                return
        finally:
            os.close(unnamed)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    named = os.open(temporary, flags, 0o666, dir_fd=directory)  # the umask takes bits away
    try:
        _fill(named, data, mode)
    finally:
        os.close(named)


def _fill(file: int, data: bytes, mode: int | None) -> None:
    """Write an open file and flush it to the disk."""
    if mode is not None and hasattr(os, "fchmod"):
        os.fchmod(file, mode)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    os.fsync(file)


def _open_unnamed(directory: int) -> int | None:
    """A new file without a name. None if the file system has none, or if /proc, which names it later, is missing."""
    if not os.path.exists(f"/proc/self/fd/{directory}"):
        return None
    try:
        return os.open(".", os.O_WRONLY | os.O_TMPFILE, 0o666, dir_fd=directory)
    except OSError:  # EOPNOTSUPP, EISDIR, EINVAL; other errors occur again with a name
        return None


def _flush_directory(directory: int) -> None:
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot flush directories
            raise
