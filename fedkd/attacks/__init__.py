"""Attacks as arithmetic on scores: one file each, numpy in, numbers out; **higher = more likely member**,
everywhere.

A membership attack is ``score(config, *, <signal>=..., ...) -> [N]``: its parameters carry the names of the
signals in ``fedkd/signals.py``, so the evaluator passes what the signature asks for. An attack whose result
is not a ROC (extraction, exposure, lower bounds on epsilon, label disclosure) has ``audit(config, ...) ->
report dataclass``. No file here sees a model, a data loader or a federation, and none imports torch.
"""
