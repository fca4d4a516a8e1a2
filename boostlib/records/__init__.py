"""The record of a run: its lines (rows.py), the ledger on disk and in several processes, and the one-file bundle.

Imports `basis`, `update`, `rank` and `common`. Nothing here loads a model.
"""
