"""Fixtures that every test may use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# Tests run in several processes: together these, and the processes that they start, use every core once.
THREADS = max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
torch.set_num_threads(THREADS)
# In the background of a shell Ctrl-C is ignored, also by the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Every call in the tests checks the shapes and types that the annotations state, where the code does not itself turn
# bad arguments into errors for users. The checker needs an importable name.
checker = ModuleType("mriinv_test_checker")
checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float
sys.modules[checker.__name__] = checker
CHECKED = [f"mriinv.{part}" for part in ("core", "data", "training")]
ROOT = Path(__file__).resolve().parents[1]
# pullback.py defines a function in every call, and to make each one check its types takes longer than the network
NUMERICS = (ROOT / "src/mriinv/numerics").glob("*.py")
CHECKED += [f"mriinv.numerics.{file.stem}" for file in NUMERICS if file.stem != "pullback"]
CHECKED += [folder.name for folder in (ROOT / "plugins").glob("mriinv_*") if folder.name != "mriinv_sense"]
install_import_hook(CHECKED, "mriinv_test_checker.check")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests, so that no process is left alone with them in the end."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


RunMriinv = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Give every test the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the GPU, for the same numbers on every machine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real acquisitions beside the repository; tests that need it skip where it is absent."""
    folder = (Path(__file__).resolve().parents[1] / "../shared/data").resolve()
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return folder


@pytest.fixture(scope="session")
def run_mriinv() -> RunMriinv:
    """Run the command line in a process of its own, after the code `before`, with `site` first on the path."""
    from support import PATIENCE  # it imports what is checked, hence after the hook

    def run(
        *arguments: object, before: str = "", site: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        code = f"{before}\nfrom mriinv.cli import main\nmain(prog_name='mriinv')"
        inherited = {key: value for key, value in os.environ.items() if key not in ("MRIINV_PLUGINS", "PYTHONPATH")}
        path = {} if site is None else {"PYTHONPATH": str(site)}
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**inherited, "OMP_NUM_THREADS": "1", **path, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return run
