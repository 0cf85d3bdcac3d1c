"""Reads one item ahead in a thread, while the last one is used."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")

_POLL = 0.1  # seconds: on Windows, a thread that waits hears of a Ctrl-C only when it wakes up
_PATIENCE = 0.05  # seconds that a reader has to end; then it is left to itself

_END = object()


class Reading:
    """Whether anything still waits for what a thread reads."""

    is_wanted = True


class _Raised(NamedTuple):
    error: BaseException


def read_ahead(read: Callable[[Reading], Generator[Item, None, None]]) -> Generator[Item, None, None]:
    """Run a generator in a thread, which makes one item while the one before it is used.

    Close this generator or exhaust it. Before the next item is asked for, ``del`` the last one: then there are at most
    two.

    Parameters
    ----------
    read : function
        Makes the generator from a `Reading`. If that is no longer wanted, the generator should return soon.

    Yields
    ------
    The items. An exception in the thread is raised here as it came.

    Notes
    -----
    No thread is left between calls, so a fork finds none. A Ctrl-C does not wait for a generator that blocks: its
    thread is a daemon, and ends when the generator goes on.
    """
    reading = Reading()
    wanted: SimpleQueue[bool] = SimpleQueue()  # whether to read one more
    items: SimpleQueue[Any] = SimpleQueue()
    run = contextvars.copy_context().run  # np.errstate of the caller holds in the thread too
    thread = threading.Thread(
        target=run, args=(_work, read, reading, wanted, items), name="backprop-reader", daemon=True
    )
    try:
        if not _is_started(thread):
            with closing(read(reading)) as inline:
                yield from inline
            return
        wanted.put(True)
        while (item := _next_of(items)) is not _END:
            if type(item) is _Raised:
                try:
                    raise item.error
                finally:
                    del item  # else this frame would keep the error, which keeps the frame
            wanted.put(True)
            yield item
            del item
    finally:
        reading.is_wanted = False
        wanted.put(False)
        if thread.is_alive():
            thread.join(_PATIENCE)


def _is_started(thread: threading.Thread) -> bool:
    """Start a thread; False if the system has no more threads, or if the interpreter is about to end."""
    try:
        thread.start()
    except RuntimeError:
        if thread.ident is not None:  # a signal handler has raised
            raise
        return False
    return True


def _next_of(items: SimpleQueue[Any]) -> Any:
    """Wait for the next item; a signal handler may raise meanwhile."""
    while True:
        try:
            return items.get(timeout=_POLL)
        except Empty:
            continue


def _work(
    read: Callable[[Reading], Generator[Any, None, None]],
    reading: Reading,
    wanted: SimpleQueue[bool],
    items: SimpleQueue[Any],
) -> None:
    """Put an item each time one is wanted, and at last the end or an exception."""
    try:
        with closing(read(reading)) as found:
            while wanted.get():
                item = next(found, _END)
                if item is _END:
                    break
                items.put(item)
                del item
    except BaseException as error:
        items.put(_Raised(error))
    else:
        items.put(_END)
