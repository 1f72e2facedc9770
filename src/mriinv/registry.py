"""How a name becomes a class: discovery of plug-ins, the merged catalogue, and lookup.

Discovery is robust: a plug-in that fails is reported and the rest works. A name that a built-in has stays the
built-in's; a name that two others claim belongs to neither until the user writes ``distribution:name``.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pluggy

from mriinv import hookspecs
from mriinv.core.capabilities import Derivation, match
from mriinv.core.component import ComponentSettings
from mriinv.discovery import Plugin, canonical, catalogue_of, installed_plugins, last_line, own_catalogue
from mriinv.errors import (
    CompatibilityError,
    InputError,
    MriinvError,
    PluginError,
    UnknownNameError,
    require_kind,
    shown,
)
from mriinv.manifest import Choice, Combination, ComponentEntry, Kind, Manifest, RecipeEntry, load_manifest

logger = logging.getLogger("mriinv")


@dataclass(frozen=True)
class Registered:
    """A catalogue entry and the plug-in that offers it."""

    entry: ComponentEntry
    plugin: Plugin

    @property
    def qualified(self) -> str:
        return f"{self.plugin.distribution}:{self.entry.name}"


class Registry:
    """The components that are installed.

    Parameters
    ----------
    points : entry points; those of the installed distributions when None
    """

    def __init__(self, points: Iterable[EntryPoint] | None = None) -> None:
        self.plugins = installed_plugins(points)
        own = load_manifest(own_catalogue())
        self.recipes: dict[str, RecipeEntry] = dict(own.recipes)
        self.remarks: list[str] = []
        self._components: dict[tuple[Kind, str], list[Registered]] = {}
        self._catalogues: dict[Path, str] = {}
        for plugin in self.plugins:
            self._enter(plugin, own)
        self._report_collisions()

    def components(self, kind: Kind) -> dict[str, Registered]:
        """Return every component of `kind` by the name that reaches it: the plain one, or ``distribution:name``."""
        found: dict[str, Registered] = {}
        for (k, name), candidates in self._components.items():
            if k == kind:
                plain = self._resolve(kind, name)
                found |= {name if c is plain else c.qualified: c for c in candidates}
        return dict(sorted(found.items()))

    def find(self, kind: Kind, name: str) -> Registered:
        """Return the component that `name` or ``distribution:name`` stands for, without importing it."""
        require_kind("registry", kind, name, str, "a name")
        distribution, _, plain = name.rpartition(":")
        candidates = self._components.get((kind, plain), [])
        if distribution:
            candidates = [c for c in candidates if canonical(c.plugin.distribution) == canonical(distribution)]
            component = candidates[0] if candidates else None
        else:
            component = self._resolve(kind, plain)
        if component is None:
            if candidates:
                choices = " or ".join(f"'{c.qualified}'" for c in candidates)
                raise PluginError(f"{kind} '{name}' is offered by several distributions; write {choices}")
            raise UnknownNameError(kind, name, self.components(kind), self.missing)
        return component

    @property
    def missing(self) -> str:
        """What to add to the error of a name that is not found: plug-ins of which no component is known."""
        failed = ", ".join(f"'{plugin.name}'" for plugin in self.plugins if plugin.problem and not plugin.components)
        return f" (plug-in {failed} failed, `mriinv plugins` says why)" if failed else ""

    def recipe(self, name: str) -> RecipeEntry:
        """Return a recipe by name."""
        if name not in self.recipes:
            raise UnknownNameError("recipe", name, self.recipes, self.missing)
        return self.recipes[name]

    def usual_recipe(self, prior: str, solver: str | None = None) -> RecipeEntry | None:
        """Return the first recipe with a prior (and a solver), how it is meant to be used; None where there is none."""
        try:
            component = self.find("prior", prior)
        except (UnknownNameError, PluginError):  # an object of the user's own class, whatever plug-ins call theirs
            return None
        names = (component.qualified, *([component.entry.name] if component.plugin.builtin else []))
        found = (one for one in self.recipes.values() if one.prior and one.prior.name in names)
        return next((one for one in found if solver in (None, one.solver.name)), None)

    def usual(self, prior: str, solver: str | None = None) -> RecipeEntry:
        """Return `usual_recipe`; for a pair that no recipe has, the solver alone, and for a prior `mm-cg`."""
        return self.usual_recipe(prior, solver) or RecipeEntry(summary="", solver=Choice(name=solver or "mm-cg"))

    def settings(self, kind: Kind, choice: Choice) -> ComponentSettings:
        """Return the settings of a chosen component, checked (`SettingsError`)."""
        return self.load(kind, choice.name).parse_settings(choice.settings)

    def load(self, kind: Kind, name: str) -> Any:
        """Import and return the class of a component, checked against what the catalogue says of it."""
        component = self.find(kind, name)
        entry, plugin = component.entry, component.plugin
        offered = self.activate(plugin)
        target = offered.get(f"{kind}:{entry.name}")
        if target != entry.target:
            raise PluginError(
                f"{component.qualified}: the catalogue says target {entry.target}; the hook of "
                f"plug-in '{plugin.name}' says {target or 'nothing'}"
            )
        module, _, attribute = target.partition(":")
        try:
            cls = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:
            raise PluginError(f"{component.qualified}: {target} cannot be imported: {last_line(error)}") from error
        is_kind, is_name = getattr(cls, "kind", None), getattr(cls, "name", None)
        if (is_kind, is_name) != (kind, entry.name):
            called = f"'{is_name}'" if is_name else "without a name"
            found = f"{is_kind} {called}" if is_kind else "no component"
            raise PluginError(f"{target} is {found}; the catalogue says {kind} '{entry.name}'")
        if inspect.isabstract(cls):
            raise PluginError(f"{target} does not implement {', '.join(sorted(cls.__abstractmethods__))}")
        _check_claims(cls, entry)
        settings = getattr(cls, "Settings", None)
        if not (isinstance(settings, type) and issubclass(settings, ComponentSettings)):
            raise PluginError(f"{target}.Settings is {shown(settings)}; expected a subclass of ComponentSettings")
        return cls

    def activate(self, plugin: Plugin) -> dict[str, str]:
        """Import a plug-in and call its hook; a failure is stored in ``plugin.problem`` and raised."""
        if plugin.problem is None and plugin.loaded is None:
            try:
                plugin.hooks = _hooks(plugin.entry_point.load())
                offered: list[dict[str, str]] = plugin.hooks.mriinv_components()
                plugin.loaded = {key: target for one in offered for key, target in one.items()}
            except (Exception, SystemExit) as error:  # whatever a plug-in does, the rest goes on working
                plugin.problem = last_line(error)
                raise _failure(plugin) from error
        if plugin.loaded is None:
            raise _failure(plugin)
        return plugin.loaded

    def readers(self) -> list[Any]:
        """Return the file readers of all third-party plug-ins that load; warn of those that do not."""
        found: list[Any] = []
        for plugin in self.plugins:
            if plugin.builtin or plugin.problem:
                continue
            try:
                self.activate(plugin)
                for offered in plugin.hooks.mriinv_readers():
                    found += offered
            except (Exception, SystemExit) as error:
                plugin.problem = plugin.problem or last_line(error)
                logger.warning("%s", _failure(plugin))
        return found

    def check(self, combination: Combination) -> list[Derivation]:
        """Check prior against solver, as `match` does, and every setting (`SettingsError`); return the derivations."""
        prior = combination.prior.name if combination.prior else None
        used = self.match(prior, combination.solver.name)
        for kind, choice in combination.parts.items():
            self.settings(kind, choice)
        return used

    def match(self, prior: str | None, solver: str) -> list[Derivation]:
        """Check by the catalogue alone that `solver` can use `prior`; return the derivations that it takes."""
        wanted = self.find("solver", solver).entry
        provided = self.find("prior", prior).entry.provides if prior else ()
        used = match(provided, wanted.requires)
        if used is not None:
            return used
        priors = [name for name, c in self.components("prior").items() if self._fits(c.entry, wanted)]
        given = self.find("prior", prior).entry if prior else None
        solvers = [n for n, c in self.components("solver").items() if given and self._fits(given, c.entry)]
        requires = " or ".join(", ".join(one) for one in wanted.requires)
        width = max(len(solver), len(prior or "no prior")) + len(" requires:")
        lines = [
            f"cannot combine prior '{prior or 'none'}' with solver '{solver}'",
            f"  {solver + ' requires:':<{width}}  {requires}",
            f"  {(prior or 'no prior') + ' provides:':<{width}}  {', '.join(provided) or 'nothing'}",
            f"  priors for {solver}: {', '.join(priors) or 'none'}",
        ]
        if prior:
            lines.append(f"  solvers for {prior}: {', '.join(solvers) or 'none'}")
        raise CompatibilityError("\n".join(lines))

    @staticmethod
    def _fits(prior: ComponentEntry, solver: ComponentEntry) -> bool:
        return bool(solver.requires) and match(prior.provides, solver.requires) is not None

    def _enter(self, plugin: Plugin, own: Manifest) -> None:
        try:
            manifest = own if plugin.builtin else self._read(plugin)
        except (MriinvError, OSError, ImportError, ValueError) as error:
            plugin.problem = str(error)
            self.remarks.append(f"plug-in '{plugin.name}' of {plugin.distribution}: {error}")
            return
        for entry in manifest.components:
            # one catalogue describes all built-ins; each has a package of its own
            if not plugin.builtin or _top(entry.target) == _top(plugin.module):
                plugin.components.append(f"{entry.kind}:{entry.name}")
                self._components.setdefault((entry.kind, entry.name), []).append(Registered(entry, plugin))
        if not plugin.builtin:
            for name, recipe in manifest.recipes.items():
                self.recipes[f"{plugin.distribution}:{name}"] = _qualified(recipe, manifest, plugin.distribution)

    def _read(self, plugin: Plugin) -> Manifest:
        """Read the catalogue of a third-party plug-in, which is that of no other one."""
        path = catalogue_of(plugin)
        if (other := self._catalogues.setdefault(path, plugin.name)) != plugin.name:
            raise InputError(path, "", f"the catalogue of plug-in '{other}' as well", "one entry point for each")
        return load_manifest(path)

    def _resolve(self, kind: Kind, name: str) -> Registered | None:
        """Return what a plain name stands for: a built-in, or the only one there is."""
        candidates = self._components.get((kind, name), [])
        own = [c for c in candidates if c.plugin.builtin]
        if own:
            return own[0]
        return candidates[0] if len(candidates) == 1 else None

    def _report_collisions(self) -> None:
        for (kind, name), candidates in self._components.items():
            if len(candidates) > 1:
                who = ", ".join(f"{c.plugin.distribution} {c.plugin.version}" for c in candidates)
                kept = self._resolve(kind, name)
                choices = " or ".join(f"'{c.qualified}'" for c in candidates if c is not kept)
                outcome = f"the built-in is used; for the other write {choices}" if kept else f"write {choices}"
                self.remarks.append(f"{kind} '{name}' is offered by {who}: {outcome}")


def _hooks(module: Any) -> Any:
    """Return the hooks of one plug-in; a misspelt one, which would never be called, is an error."""
    manager = pluggy.PluginManager("mriinv")
    manager.add_hookspecs(hookspecs)
    manager.register(module)
    manager.check_pending()
    return manager.hook


def _check_claims(cls: Any, entry: ComponentEntry) -> None:
    """Compare what a class says of itself with its catalogue entry, by which components are combined."""
    provides = frozenset(getattr(cls, "provides", ()))
    if provides != frozenset(entry.provides):
        said, catalogued = (", ".join(sorted(one)) or "nothing" for one in (provides, entry.provides))
        raise PluginError(f"{entry.target} provides {said}; the catalogue says {catalogued}")
    requires = {frozenset(one) for one in getattr(cls, "requires", ())}
    if requires != {frozenset(one) for one in entry.requires}:
        said, catalogued = (
            " or ".join(sorted(", ".join(sorted(one)) for one in alternatives)) or "nothing"
            for alternatives in (requires, entry.requires)
        )
        raise PluginError(f"{entry.target} requires {said}; the catalogue says {catalogued}")


def _failure(plugin: Plugin) -> PluginError:
    return PluginError(f"plug-in '{plugin.name}' of {plugin.distribution} {plugin.version} failed: {plugin.problem}")


def _top(dotted: str) -> str:
    return dotted.partition(":")[0].partition(".")[0]


def _qualified(recipe: RecipeEntry, manifest: Manifest, distribution: str) -> RecipeEntry:
    """Let a recipe mean the components of its own distribution, whatever others call by the same name."""
    own = {(entry.kind, entry.name) for entry in manifest.components}
    renamed: dict[str, Choice] = {
        kind: choice.model_copy(update={"name": f"{distribution}:{choice.name}"})
        for kind, choice in recipe.parts.items()
        if (kind, choice.name) in own
    }
    return recipe.model_copy(update=renamed)


@lru_cache(maxsize=1)
def registry() -> Registry:
    """Return the registry of this process."""
    found = Registry()
    for remark in found.remarks:
        logger.warning("%s", remark)
    return found
