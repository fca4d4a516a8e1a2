"""Language models and classifiers by name: the embedded ones, a local folder, the hub; and how a classifier reads.

Imports tasks, `adapter` and what lies below them.
"""
