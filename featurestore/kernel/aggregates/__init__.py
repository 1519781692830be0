"""Aggregates: how events become a value. One file a family of partials; `catalogue` names what authors may use.

Enter: columns of events. Leave: finished values. Promise: merging shows neither its order nor its grouping.
"""
