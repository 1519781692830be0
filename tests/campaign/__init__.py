"""The fault campaign: real workers, a real broker, a real store, and one real fault after another.

Enter: a seed and the rows of the fault matrix to run. Leave: for each row what was injected, what was expected and
what was seen. Promise: what the stores hold afterwards is judged by an oracle that shares no code with the product: it
knows the acknowledged sends and computes in exact arithmetic. A row that cannot be run here says why; one that the
product fails says FAILED.

Faults come from outside: signals, a proxy in the way of a connection, files of a stopped server, commands that any
operator could give. The product has no hook for any of them.
"""
