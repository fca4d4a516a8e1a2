"""A run as something to sign off and ship: reports by error class, model card, exports, and a page to read.

Imports plots, analysis, the loop and everything below it.
"""
