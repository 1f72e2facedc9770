"""The command line. Torch is imported by the commands that compute, inside of them, not by these modules."""

from mriinv.cli import catalogue, files, reconstruct, simulate, train, tune
from mriinv.cli.group import INTERRUPTED, main

__all__ = ["INTERRUPTED", "catalogue", "files", "main", "reconstruct", "simulate", "train", "tune"]
