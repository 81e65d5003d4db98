"""Packages whose own code runs only if somebody asks for what it defines; their submodules import as usual.

`client` uses four modules of the official `kubernetes` package, but each of them pulls in the packages above it, and
those import 700 models and 100 API classes: 33 MiB and a third of a second for nothing. Here a package enters
`sys.modules` with its path but without its code. A submodule finds its parent there and is content. Whoever asks the
parent for more (the sandbox wants the models) gets it: the first name that is missing runs the code, in the same
module object, and from then on it is an ordinary package. `importlib.util.LazyLoader` cannot do this, because to it
even the import system's own question for `__path__` is such a name.

`from module import name` asks at once. Where that is a function or class that hardly anybody calls (a proxy's
exceptions, a login by OAuth, a pool of threads), it is replaced by one that imports the module when it is called
(`later`): another 6 MiB and a sixth of the time to begin. One that is called at once, but is known elsewhere by another
name (how many processors there are), can be given.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_lock = threading.RLock()
_running: set[str] = set()


class Postponed(ModuleType):
    """A package that has not run yet."""

    def __getattr__(self, name: str) -> Any:
        with _lock:
            if type(self) is Postponed and self.__name__ not in _running:
                _run(self)
            return ModuleType.__getattribute__(self, name)


def _run(module: ModuleType) -> None:
    """Its code may ask for what it has not defined yet, as in any import in a circle: it gets the usual error."""
    assert module.__spec__ is not None
    assert module.__spec__.loader is not None
    _running.add(module.__name__)
    try:
        module.__spec__.loader.exec_module(module)
        module.__class__ = ModuleType
    finally:
        _running.discard(module.__name__)


@contextmanager
def postponed(*packages: str) -> Iterator[None]:
    """Within, these packages (the outermost first) are imported without their code; those imported before stay.

    They stay postponed afterwards, unless the block raises an ImportError: then everything of them that came is
    forgotten, as if nobody had tried, so that a plain import can follow.
    """
    before = set(sys.modules)
    try:
        for name in packages:
            if name not in sys.modules:
                _postpone(name)
        yield
    except ImportError:
        for name in set(sys.modules) - before:
            if name.startswith(tuple(f"{package}." for package in packages)) or name in packages:
                del sys.modules[name]
        raise


class Later:
    """A function or class of a module, which is imported when this is called."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return getattr(import_module(self._module), self._name)(*arguments, **named)


@contextmanager
def later(module: str, *names: str, **given: Any) -> Iterator[None]:
    """Within, `from module import name` gives a `Later`, or what is `given` for it; if it was imported before, as ever.

    Whatever is imported within must take nothing else of the module: put this around as little as can be.
    """
    if module in sys.modules:
        yield
        return
    stand_in = sys.modules[module] = ModuleType(module)
    vars(stand_in).update({name: Later(module, name) for name in names}, **given)
    try:
        yield
    finally:
        if sys.modules.get(module) is stand_in:
            del sys.modules[module]


def _postpone(name: str) -> None:
    spec = find_spec(name)
    if spec is None or spec.loader is None or spec.submodule_search_locations is None:
        raise ImportError(f"there is no package {name}", name=name)
    module = module_from_spec(spec)
    module.__class__ = Postponed
    sys.modules[name] = module
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, module)
