"""The node: the agent's sockets, the forkserver, and the children where user code runs."""
