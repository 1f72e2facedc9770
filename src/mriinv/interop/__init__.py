"""Bridges to other libraries, imported only when they are used."""
