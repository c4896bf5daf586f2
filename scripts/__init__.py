"""Generators of reference pages, dashboards and pictures: run from a checkout, not installed."""
