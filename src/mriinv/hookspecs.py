"""The hooks that a plug-in may implement. One minute to read; a test asserts that each is used and documented.

A plug-in is a module named by an entry point of the group ``mriinv``::

    [project.entry-points."mriinv"]
    my-method = "my_package"

The module implements `mriinv_components` and its package carries a ``registry.yaml`` that describes the components
(`mriinv.manifest`), so that they can be listed and checked without running any of its code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from mriinv.data.readers import Scan

hookspec = pluggy.HookspecMarker("mriinv")
hookimpl = pluggy.HookimplMarker("mriinv")


@hookspec
def mriinv_components() -> dict[str, str]:  # type: ignore[empty-body]
    """Return what the plug-in offers, as ``{"solver:my-name": "my_package.module:ClassName"}``.

    The class is imported when somebody asks for the component by name, not before.
    """


@hookspec
def mriinv_readers() -> list[type[Scan]]:  # type: ignore[empty-body]
    """Return readers of further file formats; each says from the first bytes of a file whether it recognises it."""
