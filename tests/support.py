"""What tests of several files share."""

PATIENCE = 600  # seconds for a process to end: no busy machine needs them, and a hanging test does not last for ever
