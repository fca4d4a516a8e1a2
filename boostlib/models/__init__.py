"""Language models and classifiers by name: the embedded ones, a local folder, the hub; how a classifier reads; and
whether a model takes adapters as they are merged.

Imports tasks, `adapter` and what lies below them.
"""
