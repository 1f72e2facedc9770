"""Objects of deepinv from the names and options that a user gives."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from mriinv import SettingsError

REFUSED = ("pretrained", "ckpt_path", "endpoint", "mode_id")  # through which deepinv would download or unpickle
REMOTE = ("Client", "DiffusersDenoiserWrapper", "RAM")  # meant to be downloaded, or to run elsewhere


def build(
    setting: str, module: ModuleType, base: type, name: str, options: Mapping[str, Any], filled: Mapping[str, Any]
) -> Any:
    """Build a class of deepinv.

    Parameters
    ----------
    setting : that the name comes from, for messages
    module, base, name : a subclass `name` of `base` in `module`
    options : arguments of its constructor
    filled : arguments for it to have where its constructor takes them and `options` do not

    Raises
    ------
    SettingsError : no such class or option, pretrained weights, a missing package, a value that it does not take
    """
    cls = getattr(module, name, None)
    if not (inspect.isclass(cls) and issubclass(cls, base)) or name in REMOTE:
        known = [n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, base) and n not in REMOTE]
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)
        raise SettingsError(f"{setting}: found '{name}'; {module.__name__} has, for use here: {', '.join(close)}")
    parameters = inspect.signature(cls).parameters
    for option in options:
        if option in REFUSED:
            raise SettingsError(
                f"{setting}: {name}: option '{option}' is not allowed: nothing is downloaded or unpickled at run time"
            )
        if option not in parameters:
            takes = ", ".join(p for p in parameters if p not in ("args", "kwargs", *REFUSED)) or "none"
            raise SettingsError(f"{setting}: {name} has no option '{option}'; it has: {takes}")
    automatic = {key: value for key, value in filled.items() if key in parameters}
    untrained = {"pretrained": None} if "pretrained" in parameters else {}
    try:
        return cls(**{**automatic, **options, **untrained})
    except ImportError as error:
        raise SettingsError(f"{setting}: {name} needs a package that is not installed: {error}") from None
    except Exception as error:  # the constructors of deepinv raise almost anything
        raise SettingsError(f"{setting}: {name} cannot be built with {dict(options)}: {error}") from None
