"""What an operator and an auditor ask: are serving and training values the same?

Enter: a store, entities, a moment. Leave: what was compared, and every difference with both values.
"""

from featurestore.monitoring.parity import Mismatch, Parity, known_entities, prove

__all__ = ["Mismatch", "Parity", "known_entities", "prove"]
