"""Benchmarks: which tasks a suite has, one model of the results, averages by named rules, tables.

Running them is the business of the stage ``evaluate``; nothing here imports lm_eval, except by looking at its files.
"""
