"""What runs show, computed from their ledgers: tables, rank growth, dynamics, isolation and bounds.

Imports the loop (`boost`, `run`, `config`) and everything below it. Draws nothing.
"""
