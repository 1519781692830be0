"""The kernel's hot loops, compiled by Numba: the same results as the NumPy code, bit for bit.

Imported at the first fold, roll-up or join, since Numba takes a third of a second to import. Compiled code is cached
beside the source or, where that is read-only, in the user's cache folder; `NUMBA_CACHE_DIR` names another place.
"""
