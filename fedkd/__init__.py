"""Federated and privacy-preserving knowledge distillation.

The library imports neither Flower nor Ray, and ``import fedkd`` imports no torch: attacks and statistics work on
anyone's scores, on any machine.
"""

__version__ = "0.1.0"
