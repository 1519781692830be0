"""What an operator and an auditor ask: are serving and training values the same?

Enter: a store, entities, a moment. Leave: what was compared, and every difference with both values.
"""

from featurestore.monitoring.parity import Mismatch, Parity, known_entities, prove
from featurestore.monitoring.shadow import compare_shadow

__all__ = ["Mismatch", "Parity", "compare_shadow", "known_entities", "prove"]
