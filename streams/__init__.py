"""The stream engine: Kafka records become online rows, the event log, and dead letters.

Enter: raw records of one partition, in offset order. Leave: commits to the online store and the event log,
letters for what could not be applied. Promise: every offset is applied once, or is a dead letter, whatever
is killed; the sinks hold the offsets, and Kafka's group is told last.
"""
