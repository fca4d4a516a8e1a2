"""What runs show, computed from their ledgers: tables, rank growth, dynamics, isolation, bounds, and peers.

Imports the loop (`boost`, `run`, `config`) and everything below it. Draws nothing.
"""
