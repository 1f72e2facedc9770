"""Which plug-ins are installed: entry points, and where their packages and catalogues are. Nothing is imported."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

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
    hooks: Any = None  # those of its module, once that is imported
    loaded: dict[str, str] | None = None  # the components that they name

    @property
    def builtin(self) -> bool:
        return self.distribution == OWN_DISTRIBUTION


def installed_plugins(points: Iterable[EntryPoint] | None = None) -> list[Plugin]:
    """Return the plug-ins that the environment allows, the built-in ones first.

    Parameters
    ----------
    points : entry points; those of the installed distributions when None
    """
    plugins = [_plugin(point) for point in (entry_points(group=GROUP) if points is None else points)]
    allowed = _allowed_distributions()
    if allowed is not None:
        for name in sorted(set(allowed) - {canonical(plugin.distribution) for plugin in plugins}):
            logger.warning("%s names '%s', which has no plug-in here", PLUGINS_VARIABLE, name)
        plugins = [plugin for plugin in plugins if plugin.builtin or canonical(plugin.distribution) in allowed]
    return sorted(plugins, key=lambda plugin: (not plugin.builtin, plugin.distribution, plugin.name))


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


def catalogue_of(plugin: Plugin) -> Path:
    """Return the ``registry.yaml`` of the package that holds the plug-in's module."""
    parent = plugin.module.rpartition(".")[0]
    folders = [package_folder(name) for name in (plugin.module, parent) if name]
    found = next((folder / CATALOGUE for folder in folders if (folder / CATALOGUE).is_file()), None)
    if found is None:
        raise ImportError(f"package '{plugin.module}' has no {CATALOGUE}")
    return found


def content_folder(plugin: Plugin) -> Path:
    """Return the folder that a catalogue's paths are relative to: its own, and of a built-in that of its package."""
    return package_folder(plugin.module) if plugin.builtin else catalogue_of(plugin).parent


def _plugin(point: EntryPoint) -> Plugin:
    name, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "")
    return Plugin(point.name, name, version, point.module, point)


def canonical(distribution: str) -> str:
    """Return the name of a distribution as all its spellings share it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _allowed_distributions() -> Sequence[str] | None:
    value = os.environ.get(PLUGINS_VARIABLE)
    return None if value is None else [canonical(name.strip()) for name in value.split(",") if name.strip()]
