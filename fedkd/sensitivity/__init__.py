"""How likely a token or label is private.

``READS`` of a file says what it looks at. {"text"}: ``find(config, texts)`` gives the spans of each whole record
(``fedkd.spans`` turns them into tokens). Anything else names arrays of ``likelihood(config, *, labels, counts,
teacher_loss, reference_loss)``, which gives float32 in [0, 1] of their shape.
"""
