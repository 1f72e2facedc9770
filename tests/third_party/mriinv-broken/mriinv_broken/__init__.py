"""A plug-in that cannot be imported, as after an incompatible update of what it needs."""

raise ImportError("mriinv_broken needs a library of 1994")
