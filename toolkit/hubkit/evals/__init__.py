"""Benchmarks: the tasks of a suite, one model of the results, averages by named rules, tables, comparisons, warnings.

Running them is the business of the stage ``evaluate``; nothing here imports lm_eval before it is about to run.
"""

from hubkit.evals.comparing import COMPARISON_RULE, Comparison, Difference, SuiteComparison, compare
from hubkit.evals.suspicious import Suspicion, suspicions

__all__ = ["COMPARISON_RULE", "Comparison", "Difference", "SuiteComparison", "Suspicion", "compare", "suspicions"]
