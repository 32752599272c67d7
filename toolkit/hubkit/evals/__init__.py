"""Benchmarks: the tasks of a suite, one model of their results, averages by named rules, tables and comparisons.

Imports ``models``, ``hub``, ``recipe`` and ``core``; never lm_eval, which the stage ``evaluate`` runs. Start reading at
:mod:`hubkit.evals.results`; files of other programs are read by :mod:`hubkit.evals.readers`.
"""
