"""The command line. Torch is imported by the commands that compute, inside of them, not by these modules."""

from mriinv.cli import benchmark, catalogue, files, landscape, log_prior, reconstruct, simulate, train, tune
from mriinv.cli.group import INTERRUPTED, main

__all__ = [
    "INTERRUPTED",
    "benchmark",
    "catalogue",
    "files",
    "landscape",
    "log_prior",
    "main",
    "reconstruct",
    "simulate",
    "train",
    "tune",
]
