"""A local HTTP server of trained networks: an API and a page.

network      a network with its programs, compiled for a few batch sizes
confidence   the accuracy on the test set, by confidence
batching     answers many requests in one batch
limits       limits of the server, and the status of requests that exceed them
bodies       the bodies of requests
app          the ASGI application, with guard and openapi
server       sockets, signals, shutdown
"""
