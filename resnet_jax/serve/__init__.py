"""A local HTTP server of trained networks: an API and a page.

network      a network with its programs, compiled for a few batch sizes
confidence   how often answers as sure as one were right on the test set
batching     answers of many requests in one batch
limits       what a server takes on, and the status of a request beyond it
bodies       the bodies of requests
app          the ASGI application; guard and openapi belong to it
server       sockets, signals, the end
"""
