"""Codecs: bytes of records <-> columns of a topic's schema, one file a format."""
