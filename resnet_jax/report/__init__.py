"""Plots, tables and HTML pages of runs and studies."""
