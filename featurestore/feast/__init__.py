"""Feast: the only room that knows it.

Enter: our definitions. Leave: the same objects in Feast's SQL registry, so that every Feast tool sees them.
Promise: no code goes into the registry, and none ever comes out of it.
"""
