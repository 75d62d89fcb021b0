"""What is not a paper: offline base class, buffers, checkpoints, safe files, seeding, guards.

Importing this package imports nothing else: ask for the module that you need.
"""
