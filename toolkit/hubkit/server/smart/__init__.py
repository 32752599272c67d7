"""Git over HTTP: git's smart protocol, with the installed git for packs and the Hub's own rules for refs.

Packs are read and written by git itself, in children with limits. What a push does to refs is decided and done here, by
the same code as commits over the API, so that hooks, locks and the journal cannot be passed by.
"""
