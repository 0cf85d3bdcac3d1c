"""The package beside other libraries: their imports succeed, even if our part in them fails."""

import importlib
import importlib.abc
import importlib.util
import os
import subprocess
import sys
import textwrap
import threading
import zipfile

import pytest

import backprop
from backprop.process import after_import as _after_import

LIBRARY = "library_of_another"
SOURCE = f"""
import {LIBRARY}_helper
loader_while_it_runs = type(__loader__).__name__
value = 1
"""

# Which parts that our controller needs each release of threadpoolctl has.
OLD = "def threadpool_limits(limits=None, user_api=None): pass\n"  # 2.x, 3.0 and 3.1
WITHOUT_THE_CLASS = "def register(controller): pass\n"
REFUSES = "class LibController: pass\ndef register(controller): raise TypeError('another interface')\n"
NO_CLASS = "LibController = 3\ndef register(controller): pass\n"


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library on the path, an action that notes the modules that it is given, and the imports' state put back."""
    (tmp_path / f"{LIBRARY}.py").write_text(SOURCE)
    (tmp_path / f"{LIBRARY}_helper.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    seen = []
    yield seen
    for name in (LIBRARY, f"{LIBRARY}_helper"):
        sys.modules.pop(name, None)


def note(seen):
    return lambda module: seen.append((module, module.value))


def import_it():
    return importlib.import_module(LIBRARY)


class Passes(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        return None


class Older:
    """A finder of the old kind: Python 3.11 still asks it, later versions ignore it."""

    def find_module(self, fullname, path=None):
        return None


class AsksAll:
    """A finder that asks all others, as some real hooks do; two of them could ask each other without end."""

    def find_spec(self, fullname, path=None, target=None):
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
        return None


class LooksItUp:
    """A finder that looks the library up with the public call, and guards against calling itself."""

    def __init__(self):
        self.inside = False

    def find_spec(self, fullname, path=None, target=None):
        if self.inside:
            return None
        self.inside = True
        try:
            return importlib.util.find_spec(fullname)
        finally:
            self.inside = False


# The import of a library ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["before", "after", "last"])
@pytest.mark.parametrize("finder", [Passes, Older, AsksAll, LooksItUp])
@pytest.mark.filterwarnings("ignore::ImportWarning")  # Python 3.11 of an older finder, with us or without
def test_other_finders(library, finder, place):
    if place == "after":
        sys.meta_path.insert(0, finder())
    _after_import.register(LIBRARY, note(library))
    if place == "before":
        sys.meta_path.insert(0, finder())
    if place == "last":
        sys.meta_path.append(finder())
    module = import_it()
    assert {id(seen) for seen, _ in library} == {id(module)}
    assert type(module.__loader__).__name__ == module.loader_while_it_runs == "SourceFileLoader"
    assert module.__spec__.loader is module.__loader__


@pytest.mark.parametrize("error", [ImportError, AttributeError, RuntimeError, KeyboardInterrupt])
def test_a_finder_that_raises_is_heard_as_without_us(library, error):
    class Raises:
        def find_spec(self, fullname, path=None, target=None):
            if fullname == LIBRARY:
                raise error("from the finder")

    sys.meta_path.insert(0, Raises())
    _after_import.register(LIBRARY, note(library))
    with pytest.raises(error, match="from the finder"):
        import_it()
    del sys.meta_path[1]
    assert import_it().value == 1
    assert len(library) == 1


@pytest.mark.parametrize("error", [Exception, ImportError, TypeError, Warning])
def test_an_action_that_raises_is_not_heard(library, error):
    def action(module):
        library.append(module)
        raise error("from the action")

    _after_import.register(LIBRARY, action)
    assert import_it() is library[0]
    _after_import.register(LIBRARY, action)  # at once, as it is imported already


def test_a_library_that_fails_fails_as_without_us(library, tmp_path):
    (tmp_path / f"{LIBRARY}.py").write_text("raise RuntimeError('from the library')")
    _after_import.register(LIBRARY, note(library))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="from the library"):
            import_it()
    assert library == []


def test_a_library_that_is_missing(library, tmp_path):
    _after_import.register("no_such_library", note(library))
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("no_such_library")
    assert importlib.util.find_spec("no_such_library") is None


def test_a_library_that_is_forbidden(library, monkeypatch):
    monkeypatch.setitem(sys.modules, LIBRARY, None)
    _after_import.register(LIBRARY, note(library))
    with pytest.raises(ModuleNotFoundError):
        import_it()
    monkeypatch.delitem(sys.modules, LIBRARY)
    assert library == [(import_it(), 1)]


def test_every_import_and_reload_is_seen(library):
    _after_import.register(LIBRARY, note(library))
    first = import_it()
    importlib.reload(first)
    del sys.modules[LIBRARY]
    second = import_it()
    assert second is not first
    assert [module for module, _ in library] == [first, first, second]


def test_looks_at_whether_it_is_there_are_not_counted(library):
    _after_import.register(LIBRARY, note(library))
    _after_import.register(LIBRARY, note(library))
    for _ in range(3):
        spec = importlib.util.find_spec(LIBRARY)
        assert spec.loader.get_source(LIBRARY) == SOURCE  # our loader has every attribute of the library's own loader
    assert library == []
    import_it()
    assert len(library) == 1


def test_a_lazy_import_is_seen_when_it_happens(library):
    _after_import.register(LIBRARY, note(library))
    spec = importlib.util.find_spec(LIBRARY)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[LIBRARY] = module
    spec.loader.exec_module(module)
    assert library == []
    assert module.value == 1
    assert library == [(module, 1)]


def test_a_loader_that_serves_other_modules_too_is_left_as_it_is(library, tmp_path):
    """A zip file has one loader object for all of its modules."""
    archive = tmp_path / "libraries.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(f"{LIBRARY}.py", SOURCE)
        file.writestr(f"{LIBRARY}_helper.py", "")
    sys.path.insert(0, str(archive))  # in front of the folder
    _after_import.register(LIBRARY, note(library))
    module = import_it()
    assert module.loader_while_it_runs == "zipimporter"
    assert "exec_module" not in vars(module.__loader__)
    assert library == [(module, 1)]


class _SpecThatKeepsItsLoader(importlib.machinery.ModuleSpec):
    @property
    def loader(self):
        return self._kept

    @loader.setter
    def loader(self, loader):
        if hasattr(self, "_kept"):
            raise AttributeError("a spec that does not change")
        self._kept = loader


def test_a_spec_that_takes_no_other_loader(library):
    class Finder:
        def find_spec(self, fullname, path=None, target=None):
            if fullname == LIBRARY:
                found = importlib.machinery.PathFinder.find_spec(fullname)
                spec = _SpecThatKeepsItsLoader(fullname, found.loader, origin=found.origin)
                return spec
            return None

    sys.meta_path.insert(0, Finder())
    _after_import.register(LIBRARY, note(library))
    assert import_it().value == 1


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="later Pythons ask no such finder")
@pytest.mark.filterwarnings("ignore::ImportWarning")
def test_a_library_that_a_finder_of_the_older_kind_has(library):
    class Loader:
        def load_module(self, fullname):
            module = sys.modules[fullname] = type(sys)(fullname)
            module.value = "from the older finder"
            module.__loader__ = self
            return module

    class Finder:
        def find_module(self, fullname, path=None):
            return Loader() if fullname == LIBRARY else None

    sys.meta_path.insert(0, Finder())
    _after_import.register(LIBRARY, note(library))
    assert import_it().value == "from the older finder"


@pytest.mark.parametrize("meta_path", [(), None, "of the default alone"])
def test_a_replaced_meta_path(library, monkeypatch, meta_path):
    kept = [importlib.machinery.PathFinder]
    monkeypatch.setattr(sys, "meta_path", kept if isinstance(meta_path, str) else meta_path)
    _after_import.register(LIBRARY, note(library))  # no list of finders to change is not an error
    monkeypatch.setattr(sys, "meta_path", kept)
    assert import_it().value == 1


def test_threads_that_import_and_register_at_once(library, tmp_path):
    """The thread that registers finds the library half imported, and waits; the others get it complete."""
    (tmp_path / f"{LIBRARY}.py").write_text("import threading, time\ntime.sleep(0.3)\nvalue = 1\n")
    start, found = threading.Barrier(6), []

    def importer():
        start.wait()
        found.append(import_it().value)

    def registers():
        start.wait()
        _after_import.register(LIBRARY, note(library))

    threads = [threading.Thread(target=target) for target in [importer] * 4 + [registers] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert found == [1] * 4
    assert {value for _, value in library} == {1}


# threadpoolctl -------------------------------------------------------------------------------------------------------


def run(code, folder):
    """Run code with a folder at the head of the path, warnings as errors."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("order", ["backprop, threadpoolctl", "threadpoolctl, backprop"])
@pytest.mark.parametrize("release", [OLD, WITHOUT_THE_CLASS, REFUSES, NO_CLASS, ""])
def test_releases_of_threadpoolctl_that_take_no_controller(tmp_path, release, order):
    (tmp_path / "threadpoolctl.py").write_text(release)
    assert run(f"import {order}; print(threadpoolctl.__file__)", tmp_path).strip() == str(tmp_path / "threadpoolctl.py")


def test_an_import_hook_of_the_older_kind_beside_threadpoolctl(tmp_path):
    pytest.importorskip("threadpoolctl", minversion="3.2")
    code = """
        import sys, warnings
        warnings.simplefilter("ignore", ImportWarning)  # Python 3.11's own, of such a finder

        class Older:
            def find_module(self, fullname, path=None):
                return None

        import backprop
        sys.meta_path.append(Older())
        sys.meta_path.insert(0, Older())
        import threadpoolctl
        print([library["user_api"] for library in threadpoolctl.threadpool_info()].count("backprop"))
    """
    assert run(code, tmp_path).split() == ["1"]


def test_a_reload_of_threadpoolctl_keeps_the_pool_known(tmp_path):
    pytest.importorskip("threadpoolctl", minversion="3.2")
    code = """
        import importlib, sys
        import threadpoolctl, backprop

        def count():
            return [library["user_api"] for library in threadpoolctl.threadpool_info()].count("backprop")

        print(count())
        importlib.reload(threadpoolctl)
        print(count())
        del sys.modules["threadpoolctl"]
        import threadpoolctl
        print(count())
        importlib.reload(backprop)
        print(count())
    """
    assert run(code, tmp_path).split() == ["1"] * 4


def test_a_controller_is_not_needed_to_import(tmp_path):
    """Once more with scikit-learn, which imports threadpoolctl itself."""
    pytest.importorskip("sklearn")
    for order in ("backprop, sklearn", "sklearn, backprop"):
        assert run(f"import {order}; print(sklearn.__name__)", tmp_path).split() == ["sklearn"]


# The version ---------------------------------------------------------------------------------------------------------


def test_the_version_needs_no_metadata():
    code = """
        import importlib.metadata, sys

        def none_is_installed(name):
            raise importlib.metadata.PackageNotFoundError(name)

        importlib.metadata.version = importlib.metadata.distribution = none_is_installed
        import backprop
        backprop.show_config()
        print(backprop.__version__)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == backprop.__version__
