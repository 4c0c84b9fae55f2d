"""A local HTTP server of trained networks: an API and a page.

network      a network with its programs, compiled for a few batch sizes
confidence   the accuracy on the test set by confidence
batching     answers of many requests in one batch
limits       limits of the server, and the status of a request beyond one
bodies       the bodies of requests
app          the ASGI application; guard and openapi belong to it
server       sockets, signals, shutdown
"""
