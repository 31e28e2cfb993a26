"""A client's whole local training in one call of C, compiled on the machine that runs it.

The C source stands in three modules of text (``c_kernels``, ``c_layers``, ``c_client``): Flower ships no ``.c`` file.
"""
