"""Persistence Service: keeps the results of translation workers safe until they are in the database."""

__version__ = "0.1.0"
