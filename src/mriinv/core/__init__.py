"""The abstract interfaces and what they exchange."""
