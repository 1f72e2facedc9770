"""How a name becomes a class: discovery of plug-ins, the merged catalogue, and lookup.

Discovery is robust: a plug-in that fails is reported and the rest works. A name that a built-in has stays the
built-in's; a name that two others claim belongs to neither until the user writes ``distribution:name``.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pluggy

from mriinv import hookspecs
from mriinv.core.capabilities import Derivation, match
from mriinv.errors import CompatibilityError, MriinvError, PluginError, UnknownNameError
from mriinv.manifest import ComponentEntry, Kind, Manifest, RecipeEntry, load_manifest

GROUP = "mriinv"
OWN_DISTRIBUTION = "mriinv"
PLUGINS_VARIABLE = "MRIINV_PLUGINS"
CATALOGUE = "registry.yaml"
logger = logging.getLogger("mriinv")


@dataclass
class Plugin:
    """One entry point: where it comes from and, when it cannot be used, why."""

    name: str
    distribution: str
    version: str
    module: str
    entry_point: EntryPoint
    components: list[str] = field(default_factory=list)
    problem: str | None = None
    loaded: dict[str, str] | None = None  # what its hook returned

    @property
    def builtin(self) -> bool:
        return self.distribution == OWN_DISTRIBUTION


@dataclass(frozen=True)
class Component:
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
        self.plugins = [_plugin(p) for p in (entry_points(group=GROUP) if points is None else points)]
        allowed = _allowed_distributions()
        if allowed is not None:
            self.plugins = [p for p in self.plugins if p.builtin or p.distribution in allowed]
        self.plugins.sort(key=lambda p: (not p.builtin, p.distribution, p.name))
        own = load_manifest(own_catalogue())
        self.recipes: dict[str, RecipeEntry] = dict(own.recipes)
        self.remarks: list[str] = []
        self._components: dict[tuple[Kind, str], list[Component]] = {}
        self._manager = pluggy.PluginManager("mriinv")
        self._manager.add_hookspecs(hookspecs)
        for plugin in self.plugins:
            self._enter(plugin, own)
        self._report_collisions()

    def components(self, kind: Kind) -> dict[str, Component]:
        """Return every component of `kind` by the name that reaches it: the plain one, or ``distribution:name``."""
        found: dict[str, Component] = {}
        for (k, name), candidates in self._components.items():
            if k == kind:
                plain = self._resolve(kind, name)
                found |= {name if c is plain else c.qualified: c for c in candidates}
        return dict(sorted(found.items()))

    def find(self, kind: Kind, name: str) -> Component:
        """Return the component that `name` or ``distribution:name`` stands for, without importing it."""
        distribution, _, plain = name.rpartition(":")
        candidates = self._components.get((kind, plain), [])
        if distribution:
            candidates = [c for c in candidates if c.plugin.distribution == distribution]
            component = candidates[0] if candidates else None
        else:
            component = self._resolve(kind, plain)
        if component is None:
            if candidates:
                choices = " or ".join(f"'{c.qualified}'" for c in candidates)
                raise PluginError(f"{kind} '{name}' is offered by several distributions; write {choices}")
            raise UnknownNameError(kind, name, self.components(kind))
        return component

    def recipe(self, name: str) -> RecipeEntry:
        """Return a recipe by name."""
        if name not in self.recipes:
            raise UnknownNameError("recipe", name, self.recipes)
        return self.recipes[name]

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
        is_kind, is_name = getattr(cls, "kind", "no"), getattr(cls, "name", "component")
        if (is_kind, is_name) != (kind, entry.name):
            raise PluginError(f"{target} is {is_kind} '{is_name}'; the catalogue says {kind} '{entry.name}'")
        return cls

    def activate(self, plugin: Plugin) -> dict[str, str]:
        """Import a plug-in and call its hook; a failure is stored in ``plugin.problem`` and raised."""
        if plugin.problem is None and plugin.loaded is None:
            try:
                plugin.loaded = self._register(plugin)
            except (Exception, SystemExit) as error:  # whatever a plug-in does, the rest goes on working
                plugin.problem = last_line(error)
                raise _failure(plugin) from error
        if plugin.loaded is None:
            raise _failure(plugin)
        return plugin.loaded

    def _register(self, plugin: Plugin) -> dict[str, str]:
        module = plugin.entry_point.load()
        self._manager.register(module, name=f"{plugin.distribution}:{plugin.name}")
        try:
            self._manager.check_pending()  # a misspelt hook would never be called
            offered: list[dict[str, str]] = self._call("mriinv_components", module)
            return {key: target for one in offered for key, target in one.items()}
        except BaseException:
            self._manager.unregister(module)
            raise

    def _call(self, hook: str, module: Any) -> list[Any]:
        """Call a hook of one plug-in."""
        others = [p for p in self._manager.get_plugins() if p is not module]
        results: list[Any] = self._manager.subset_hook_caller(hook, others)()
        return results

    def readers(self) -> list[Any]:
        """Return the file readers of all third-party plug-ins that load; warn of those that do not."""
        found: list[Any] = []
        for plugin in self.plugins:
            if plugin.builtin or plugin.problem:
                continue
            try:
                self.activate(plugin)
                for offered in self._call("mriinv_readers", plugin.entry_point.load()):
                    found += offered
            except (Exception, SystemExit) as error:
                plugin.problem = plugin.problem or last_line(error)
                logger.warning("%s", _failure(plugin))
        return found

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
            manifest = own if plugin.builtin else load_manifest(_catalogue_of(plugin))
        except (MriinvError, OSError, ImportError, ValueError) as error:
            plugin.problem = str(error)
            self.remarks.append(f"plug-in '{plugin.name}' of {plugin.distribution}: {error}")
            return
        for entry in manifest.components:
            # one catalogue describes all built-ins; each has a package of its own
            if not plugin.builtin or _top(entry.target) == _top(plugin.module):
                plugin.components.append(f"{entry.kind}:{entry.name}")
                self._components.setdefault((entry.kind, entry.name), []).append(Component(entry, plugin))
        if not plugin.builtin:
            for name, recipe in manifest.recipes.items():
                self.recipes[f"{plugin.distribution}:{name}"] = _qualified(recipe, manifest, plugin.distribution)

    def _resolve(self, kind: Kind, name: str) -> Component | None:
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


def own_catalogue() -> Path:
    """Return the catalogue of the built-ins: the root file in a checkout, the packaged one when installed."""
    here = Path(__file__).resolve().parent
    root = here.parents[1] / CATALOGUE
    return root if here.parent.name == "src" and root.is_file() else here / CATALOGUE


def package_folder(module: str) -> Path:
    """Return the folder of a package without importing it."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise ImportError(f"package '{top}' is not installed")
    if not spec.submodule_search_locations:
        raise ImportError(f"'{top}' is a module; a plug-in is a package with a registry.yaml in it")
    return Path(next(iter(spec.submodule_search_locations)), *rest)


def last_line(error: BaseException) -> str:
    """Return the last line of the traceback of `error`."""
    return traceback.format_exception_only(error)[-1].strip()


def _failure(plugin: Plugin) -> PluginError:
    return PluginError(f"plug-in '{plugin.name}' of {plugin.distribution} {plugin.version} failed: {plugin.problem}")


def _top(dotted: str) -> str:
    return dotted.partition(":")[0].partition(".")[0]


def _qualified(recipe: RecipeEntry, manifest: Manifest, distribution: str) -> RecipeEntry:
    """Let a recipe mean the components of its own distribution, whatever others call by the same name."""
    own = {(entry.kind, entry.name) for entry in manifest.components}
    choices = {kind: getattr(recipe, kind) for kind in ("operator", "prior", "solver")}
    renamed = {
        kind: choice.model_copy(update={"name": f"{distribution}:{choice.name}"})
        for kind, choice in choices.items()
        if choice is not None and (kind, choice.name) in own
    }
    return recipe.model_copy(update=renamed)


def _catalogue_of(plugin: Plugin) -> Path:
    """Return the ``registry.yaml`` of the package that holds the plug-in's module."""
    *parents, last = plugin.module.split(".")
    folders = [package_folder(".".join([*parents, last]))] + ([package_folder(".".join(parents))] if parents else [])
    found = next((folder / CATALOGUE for folder in folders if (folder / CATALOGUE).is_file()), None)
    if found is None:
        raise ImportError(f"package '{plugin.module}' has no {CATALOGUE}")
    return found


def _plugin(point: EntryPoint) -> Plugin:
    name, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "")
    return Plugin(point.name, name, version, point.module, point)


def _allowed_distributions() -> Sequence[str] | None:
    value = os.environ.get(PLUGINS_VARIABLE)
    return None if value is None else [name.strip() for name in value.split(",") if name.strip()]


@lru_cache(maxsize=1)
def registry() -> Registry:
    """Return the registry of this process."""
    found = Registry()
    for remark in found.remarks:
        logger.warning("%s", remark)
    return found
