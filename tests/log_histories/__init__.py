"""Histories of several writers of one event log: real `EventLog` handles on a real Delta table, stopped where others
may come between. The simulation beside it plays the whole worker, but on a table that lives in memory.
"""
