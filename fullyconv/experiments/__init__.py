"""Whole experiments, from data to table."""
