"""A new file in the place of an old one, in one step.

The file is made beside the old one, without a name if the system can (O_TMPFILE: a process that is killed then leaves
nothing), flushed to the disk, and put in the old one's place in one step, after which the directory is flushed. So the
path names the old file or the new one, whole, whatever happens.
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
    if os.path.basename(named) in ("", os.curdir, os.pardir):  # realpath would make a file's name of "new/"
        raise IsADirectoryError(errno.EISDIR, "path: expected the name of a file, got that of a directory", named)
    try:
        os.stat(os.path.dirname(named) or os.curdir)  # realpath would shorten "missing/../name"
        path = os.path.realpath(named)  # where a symbolic link points, as open would write
        old_mode = _mode_of_old(path)
        folder, name = os.path.split(path)
        temporary = f".backprop-{os.urandom(8).hex()}.tmp"  # no part of the name: that may be as long as names may be
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
        raise OSError(error.errno, error.strerror, named) from error  # what the caller named, not the temporary file


def _mode_of_old(path: str) -> int | None:
    """The permissions of the file that will be replaced, None where there is none."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise ValueError(f"path: expected a regular file or a new one, got {path!r}, a device, a pipe or a socket")
    if not os.access(path, os.W_OK):  # a rename would not ask
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return mode & 0o777


def _write_new(directory: int | None, temporary: str, data: bytes, mode: int | None) -> None:
    """Write a file of that name in the directory and flush it; it gets the name last, where the system can do that."""
    unnamed = None if directory is None else _open_unnamed(directory)
    if unnamed is not None:
        try:
            _fill(unnamed, data, mode)
            # Some file systems and sandboxes have no links. What has other causes fails again with a name.
            with suppress(OSError):  # a dir_fd makes Python follow the link to the open file
                source = f"/proc/self/fd/{unnamed}"
                os.link(source, temporary, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=True)
                return
        finally:
            os.close(unnamed)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    named = os.open(temporary, flags, 0o666, dir_fd=directory)  # less the umask
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
    """A new file without a name, None where the file system has none or /proc, which names it later, is missing."""
    if not os.path.exists(f"/proc/self/fd/{directory}"):
        return None
    try:
        return os.open(".", os.O_WRONLY | os.O_TMPFILE, 0o666, dir_fd=directory)
    except OSError:  # EOPNOTSUPP, EISDIR, EINVAL; what has other causes fails again with a name
        return None


def _flush_directory(directory: int) -> None:
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems flush no directories
            raise
