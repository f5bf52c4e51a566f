"""Fixtures for the whole test suite. Nothing here starts anything."""

pytest_plugins = ["tests.cluster.fixtures"]
