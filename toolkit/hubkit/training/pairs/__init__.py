"""DPO at the cost that the pairs need: the prompt of a pair computed once, no padding, reference numbers kept on disk.

TRL's losses and metrics are untouched: only what one forward pass computes is rearranged (:mod:`.forward`), after a
proof on the first rows that the log-probabilities are TRL's own (:mod:`.proof`). Start reading at :mod:`.trainer`.
"""
