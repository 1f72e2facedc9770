"""The command line. Torch is imported by the commands that compute, inside of them, not by these modules."""

from mriinv.cli import benchmark, calibrate, catalogue, files, landscape, log_prior, reconstruct, simulate, train, tune
from mriinv.cli.group import INTERRUPTED, main

__all__ = [
    "INTERRUPTED",
    "benchmark",
    "calibrate",
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
