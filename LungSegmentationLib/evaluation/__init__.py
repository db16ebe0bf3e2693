"""Predicted against reference structures: scores, summaries, tables and the report."""
